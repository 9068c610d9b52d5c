//! The HTTP front of every design, with the same server, route and headers as Firstcome, and with
//! responses of the same form.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, post};
use axum::{Json, Router};
use firstcome_shared::domain::UserId;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::{self, Limits, Problem};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use super::{DesignReply, Issuer};

pub(super) async fn serve<S: Issuer>(issuer: S) -> Result<()> {
    listen(post(claim::<S>).with_state(Arc::new(issuer))).await
}

/// Serves a route that does nothing and returns the answer to a sold-out claim, with the same
/// length.
pub(super) async fn nothing() -> Result<()> {
    const BODY: &str = r#"{"type":"about:blank","title":"Conflict","status":409,"code":"sold_out","detail":"all are given out"}"#;
    const TYPE: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/problem+json")];
    listen(post(async || (StatusCode::CONFLICT, TYPE, BODY))).await
}

/// Listens on a free local port and prints it, as the product's processes do.
async fn listen(claims: MethodRouter) -> Result<()> {
    let router = Router::new().route("/v1/coupons/{id}/claims", claims);
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    // The same backlog as Firstcome's.
    let listener = socket.listen(16_384)?;
    println!("listening on http://{}", listener.local_addr()?);
    http::serve(listener, router, Limits::DEFAULT, CancellationToken::new()).await;
    Ok(())
}

async fn claim<S: Issuer>(
    State(issuer): State<Arc<S>>,
    Path(_): Path<i64>,
    headers: HeaderMap,
) -> Response {
    let named = headers
        .get("x-user-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|id| id.parse::<UserId>().ok());
    let Some(user) = named else {
        return Problem::new(Code::Unauthorized, "no X-User-Id").into_response();
    };
    match issuer.claim(&user).await {
        Ok(DesignReply::Accepted(slot)) => {
            let body = json!({"status": "accepted", "drop_id": 1, "slot": slot, "queued": true});
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
        Ok(DesignReply::Already) => {
            Json(json!({"status": "already_claimed", "drop_id": 1, "slot": 0})).into_response()
        }
        Ok(DesignReply::SoldOut) => {
            Problem::new(Code::SoldOut, "all are given out").into_response()
        }
        Err(error) => {
            eprintln!("a claim failed: {error:#}");
            Problem::unavailable("try again").into_response()
        }
    }
}
