//! A client of the API's HTTP routes, for operators' programs. It sends paths without
//! normalization: `..` is a valid user id.

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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::Path;
    use axum::routing::get;
    use firstcome_stack::CertificateFolder;
    use http_body_util::BodyExt as _;
    use tokio_util::sync::CancellationToken;

    use super::super::fetch::tests::https_server;
    use super::super::{Limits, serve};
    use super::*;

    fn ask(path: &str) -> Request<Bytes> {
        Request::get(path).body(Bytes::new()).unwrap()
    }

    #[tokio::test]
    async fn user_id_of_dots_is_sent_unchanged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route(
            "/v1/people/{id}/revoke",
            get(async |Path(id): Path<String>| id),
        );
        tokio::spawn(serve(
            listener,
            routes,
            Limits::DEFAULT,
            CancellationToken::new(),
        ));
        let api = CouponApiClient::new(&format!("http://{address}/"), None)
            .unwrap_or_else(|why| panic!("{why}"));
        for (path, id) in [
            ("/v1/people/%2E%2E/revoke", ".."),
            ("/v1/people/%2E/revoke", "."),
            ("/v1/people/a%7Cb/revoke", "a|b"),
        ] {
            let answer = api.send(ask(path)).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), id);
        }
    }

    #[tokio::test]
    async fn token_is_sent_only_to_a_server_with_a_valid_certificate() {
        let files = CertificateFolder::make().unwrap();
        let port = https_server(&files, "server").await;
        let send = async |ca: Option<&str>| {
            let ca = ca.map(|ca| files.path(ca).into());
            let api = CouponApiClient::new(&format!("https://127.0.0.1:{port}"), ca)
                .unwrap_or_else(|why| panic!("{why}"));
            api.send(ask("/v1/coupons")).await
        };
        assert_eq!(send(Some("ca.pem")).await.unwrap().status(), 200);
        for ca in [Some("foreign-ca.pem"), None] {
            let refused = send(ca).await.unwrap_err();
            assert!(
                matches!(&refused, FetchError::Refused(why) if why.contains("SSL_CERT_FILE")),
                "{refused}"
            );
        }
    }
}
