//! `health`: probes the process in this container, because the image has no shell or curl.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use hyper::Request;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::client::HttpClient;
use crate::tls::TlsServer;

/// Time limit of a probe. Shorter than the container's own limit (3 s in docker-compose.yml), so
/// that the error is shown.
const LIMIT: Duration = Duration::from_secs(2);

/// The kind of probe.
#[derive(Debug, Clone, Args)]
pub struct ProbeArgs {
    /// Ask `/readyz` (can it do its work?) instead of `/healthz` (does it run?)
    #[arg(long)]
    pub ready: bool,
}

impl ProbeArgs {
    /// Probes the process that listens on `address`.
    ///
    /// # Errors
    /// Returns a message with the response, or says that there was none within two seconds.
    pub async fn probe(&self, address: SocketAddr) -> Result<(), String> {
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let at = reachable(address);
        let client = HttpClient::new(TlsServer::Api, &format!("http://{at}{path}"), None)?;
        let request = Request::get(client.url(""))
            .body(Bytes::new())
            .map_err(|error| error.to_string())?;
        match timeout(LIMIT, client.exchange(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => {
                let body = String::from_utf8_lossy(response.body());
                let status = response.status();
                Err(format!("http://{at}{path} answers {status}: {body}"))
            }
            Ok(Err(error)) => Err(format!("http://{at}{path} does not answer: {error}")),
            Err(_) => Err(format!(
                "http://{at}{path} has not answered within {LIMIT:?}"
            )),
        }
    }
}

/// Returns an address at which a process that listens there, perhaps on all addresses, can be
/// reached on this host.
pub fn reachable(listening: SocketAddr) -> SocketAddr {
    let mut at = listening;
    if listening.ip().is_unspecified() {
        at.set_ip(match listening {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    at
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn wildcard_address_is_reached_at_loopback_and_any_other_unchanged() {
        for (listening, at) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("192.0.2.1:8081", "192.0.2.1:8081"),
            ("[fe80::1%2]:8081", "[fe80::1%2]:8081"),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()).to_string(), at);
        }
    }

    #[tokio::test]
    async fn probe_reaches_a_wildcard_listener_and_reports_its_response() {
        let busy = async || (StatusCode::SERVICE_UNAVAILABLE, "redis: gone");
        let router = Router::new().route("/healthz", get(async || "ok"));
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = router.route("/readyz", get(busy));
        tokio::spawn(async move { axum::serve(listener, router).await });
        assert_eq!(ProbeArgs { ready: false }.probe(address).await, Ok(()));
        let said = ProbeArgs { ready: true }.probe(address).await.unwrap_err();
        assert!(
            said.contains("503") && said.contains("redis: gone"),
            "{said}"
        );
    }
}
