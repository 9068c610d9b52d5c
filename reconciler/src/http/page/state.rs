//! What the screens work with.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::Utc;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::seats::Seats;
use tokio::time::timeout;

use super::api::CouponApi;
use super::html::notice;
use super::live::Live;
use super::session::Session;
use crate::http::state::RouteState;

/// Longest wait for Redis to say whether a session was ended: the page is needed most while a store
/// is away.
const PATIENCE: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct ScreenState {
    pub(super) app: RouteState,
    pub(super) token: OpsToken,
    /// Where changes are asked for that are the API's to make.
    pub(super) api: Option<Arc<CouponApi>>,
    /// Taken by screens that may cost seconds.
    pub(super) slow: Seats,
    pub(super) live: Arc<Live>,
}

impl ScreenState {
    /// Makes a screen that may cost seconds, unless too many are being made.
    pub(super) async fn slowly(
        &self,
        session: &Session,
        screen: impl Future<Output = Response>,
    ) -> Response {
        let Ok(_turn) = self.slow.of(session.allowed).try_acquire() else {
            let why = "Others are looking at something large right now. Reload in a few seconds.";
            return notice(StatusCode::SERVICE_UNAVAILABLE, "Busy", why);
        };
        screen.await
    }

    /// The session that a request belongs to. While Redis is away, also one that its operator has
    /// ended.
    pub(super) async fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let session = Session::of(headers, &self.token, Utc::now())?;
        let was_ended = timeout(
            PATIENCE,
            self.app.stores.redis.session_was_ended(&session.id),
        )
        .await;
        (!matches!(was_ended, Ok(Ok(true)))).then_some(session)
    }
}
