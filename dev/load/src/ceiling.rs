//! What this tool itself can do at most: the same crowd against a server, in this process, that does nothing. A figure near it
//! says more about the tool than about the system.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::client::Target;
use crate::crowd::Crowd;
use crate::identity::Identity;
use crate::load::{Plan, rush};
use crate::tally::{Progress, Tally};

/// Enough for about a second.
const REQUESTS: u32 = 20_000;
const ANSWER: &str =
    r#"{"type":"about:blank","title":"Sold out","status":409,"code":"sold_out","detail":"all are given out"}"#;

/// Lets a crowd ask a server that does nothing, over so many connections. Server and crowd share this process's cores, so a
/// system on other machines can be asked more often than this.
pub async fn measure(connections: usize) -> Result<Tally> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let target: Target = format!("http://{}", listener.local_addr()?).parse()?;
    let server = tokio::spawn(serve(listener));
    let plan = Plan {
        targets: vec![target],
        coupon_id: 1,
        crowd: Crowd::gather("nobody-", REQUESTS, 1, 1)?,
        connections,
        identity: Identity::TrustedHeader,
        rate: None,
        patience: Duration::ZERO,
    };
    let tally = rush(plan, Arc::new(Progress::default())).await;
    server.abort();
    tally
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        // A server that waits for more to send would be slower than one that does nothing.
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // How a connection ends is of no interest here.
            drop(connection.serve_connection(TokioIo::new(stream), service_fn(nothing)).await);
        });
    }
}

async fn nothing(_: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    *response.status_mut() = StatusCode::CONFLICT;
    let json = header::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Kind;

    #[tokio::test(flavor = "multi_thread")]
    async fn everybody_is_answered_by_the_server_that_does_nothing() {
        let tally = measure(8).await.unwrap();
        assert_eq!(tally.count(Kind::SoldOut), u64::from(REQUESTS));
        assert!(tally.per_second > 0.0);
    }
}
