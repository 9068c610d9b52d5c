//! The HTTP front end that both services share: server, problem+json errors, bodies, operators'
//! tokens, health, request ids, common parts of /openapi.json and of pages, and the response types
//! that the console shows. Also an HTTP client, and the probe of a container.

pub mod client;
pub mod extract;
pub mod headers;
pub mod health;
pub mod json;
pub mod openapi;
pub mod ops;
pub mod page;
pub mod probe;
pub mod problem;
pub mod request_id;
mod server;
pub mod signatures;
pub mod starting;
pub mod views;

pub use problem::Problem;
pub use server::{Limits, Routes, listen, serve, serve_with};
