//! The HTTP front both services share: the server itself, errors as problem+json, the ops token,
//! health.

pub mod health;
pub mod ops;
pub mod problem;
mod server;

pub use problem::Problem;
pub use server::{Limits, serve, serve_by};
