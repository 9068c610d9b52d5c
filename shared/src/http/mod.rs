//! The HTTP front that both services share: the server itself, errors as problem+json, bodies, the
//! operators' token, health, request ids, the access log, common parts of /openapi.json, common
//! parts of pages, and the reconciler's responses that its console shows.

pub(crate) mod access;
mod activity;
pub mod api_client;
mod connections;
pub mod extract;
pub mod fetch;
mod gather;
pub mod headers;
pub mod health;
pub mod json;
pub mod network;
pub mod openapi;
pub mod ops;
pub mod origin;
pub mod page;
pub mod probe;
pub mod problem;
pub mod proxies;
pub mod request_id;
pub mod seats;
mod server;
pub mod signatures;
pub mod starting;
pub mod views;
pub(crate) mod wrong_tokens;

pub use problem::Problem;
pub use server::{Limits, serve, serve_by};
