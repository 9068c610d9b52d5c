//! The HTTP front both services share: the server itself, errors as problem+json, bodies, the ops
//! token, health, what /openapi.json says of them, what pages have in common.

pub mod health;
pub mod json;
pub mod openapi;
pub mod ops;
pub mod page;
pub mod probe;
pub mod problem;
mod proxies;
mod server;

pub use problem::Problem;
pub use server::{Limits, serve, serve_by};
