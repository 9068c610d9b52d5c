//! A client of the API's HTTP routes, for operators' programs.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::http::{Request, Response};
use hyper::body::Incoming;

use super::origin::{FetchError, Origin};
use crate::tls::Store;

/// The API at `API_URL`, with the path of the address, without its last `/`.
pub struct CouponApiClient(Origin, String);

impl CouponApiClient {
    /// Creates a client from `API_URL`, and a file of additional certificate authorities.
    ///
    /// # Errors
    /// Returns a message that names the setting to change.
    pub fn new(url: &str, authorities: Option<PathBuf>) -> Result<Self, String> {
        let shape = "http://host:port or https://host:port";
        let (origin, path) = Origin::new(url, Store::Api, shape, authorities)?;
        Ok(Self(origin, path.trim_end_matches('/').to_owned()))
    }

    /// Sends a request to a path of the API. The caller sets the deadline.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, FetchError> {
        let uri = format!("{}{}", self.1, request.uri()).parse();
        *request.uri_mut() = uri.map_err(FetchError::away)?;
        self.0.send(request).await
    }
}
