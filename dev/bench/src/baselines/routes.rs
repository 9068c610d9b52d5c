//! A route that does nothing, for comparison.

use anyhow::Result;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::post;

use crate::baselines::designs::listen;

/// Serves a route that does nothing and returns the answer to a sold-out claim, with the same
/// length.
pub async fn nothing() -> Result<()> {
    const BODY: &str = r#"{"type":"about:blank","title":"Conflict","status":409,"code":"sold_out","detail":"all are given out"}"#;
    let answer = async || {
        (
            StatusCode::CONFLICT,
            [(header::CONTENT_TYPE, "application/problem+json")],
            BODY,
        )
    };
    listen(Router::new().route("/v1/coupons/{id}/claims", post(answer))).await
}
