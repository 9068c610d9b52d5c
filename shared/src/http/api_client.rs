//! A client of the API's HTTP routes, for operators' programs.

use std::path::PathBuf;

use axum::body::Bytes;
use axum::http::{Request, Response, Uri};
use hyper::body::Incoming;

use super::fetch::FetchError;
use super::origin::{HttpStep, Origin};
use crate::tls::Store;

/// The API at `API_URL`.
pub struct CouponApiClient {
    origin: Origin,
    /// The path of the address, without its last `/`.
    prefix: String,
}

impl CouponApiClient {
    /// Creates a client from `API_URL`, and a file of additional certificate authorities.
    ///
    /// # Errors
    /// Returns a message that names the setting to change.
    pub fn new(url: &str, authorities: Option<PathBuf>) -> Result<Self, String> {
        let shape = "http://host:port or https://host:port";
        let (origin, path) = Origin::new(url, Store::Api, shape, authorities)?;
        Ok(Self {
            origin,
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a request to a path of the API. The caller sets the deadline.
    pub async fn send(
        &self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, FetchError> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let uri: Uri = format!("{}{path}", self.prefix)
            .parse()
            .map_err(FetchError::away)?;
        *request.uri_mut() = uri;
        self.origin.send(request, &mut HttpStep::Connect).await
    }
}
