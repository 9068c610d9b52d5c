//! `health`: probes the process in this container, because the image has no shell or curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

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
        match timeout(LIMIT, get(at, path)).await {
            Ok(Ok((status, _))) if status.is_success() => Ok(()),
            Ok(Ok((status, body))) => Err(format!("http://{at}{path} answers {status}: {body}")),
            Ok(Err(error)) => Err(format!("http://{at}{path} does not answer: {error:#}")),
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

async fn get(at: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(at).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // A connection error also fails the request, which reports it.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, at.to_string())
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!(error))?;
    Ok((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use axum::Router;
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
