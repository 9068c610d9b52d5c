//! `health`: probes the process in this container, because the image has no shell or curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use hyper::Request;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::origin::Origin;
use crate::tls::Store;

/// Time limit of a probe. Shorter than the container's own limit (3 s in docker-compose.yml), so
/// that the error is shown.
const LIMIT: Duration = Duration::from_secs(2);

/// Maximum number of bytes read from a response.
const ANSWER: usize = 16 * 1024;

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
    pub async fn ask(&self, address: SocketAddr) -> Result<(), String> {
        let path = if self.ready { "/readyz" } else { "/healthz" };
        let at = SocketAddr::new(reachable(address.ip()), address.port());
        let shape = "http://address:port";
        let (origin, _) = Origin::new(&format!("http://{at}"), Store::Api, shape, None)?;
        let request = Request::get(path).body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        match timeout(LIMIT, origin.exchange(request, ANSWER)).await {
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

/// Returns an address at which a process that listens on all addresses can be reached.
fn reachable(listening: IpAddr) -> IpAddr {
    match listening {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn probe_distinguishes_down_silent_and_not_ready() {
        let router = Router::new().route("/healthz", get(async || "ok")).route(
            "/readyz",
            get(async || (StatusCode::SERVICE_UNAVAILABLE, "redis: gone")),
        );
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let runs = ProbeArgs { ready: false };
        let ready = ProbeArgs { ready: true };
        assert_eq!(
            runs.ask(address).await,
            Ok(()),
            "0.0.0.0 is asked at 127.0.0.1"
        );
        let not_ready = ready.ask(address).await.unwrap_err();
        assert!(
            not_ready.contains("503") && not_ready.contains("redis: gone"),
            "{not_ready}"
        );

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let says = runs.ask(silent.local_addr().unwrap()).await.unwrap_err();
        assert!(says.contains("has not answered within 2s"), "{says}");
        let nobody = silent.local_addr().unwrap();
        drop(silent);
        let says = runs.ask(nobody).await.unwrap_err();
        assert!(says.contains("does not answer"), "{says}");
    }
}
