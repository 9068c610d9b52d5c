//! What the screens work with.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use firstcome_shared::http::ops::OpsToken;
use tokio::sync::Semaphore;

use super::api::CouponApi;
use super::html::notice;
use super::live::Live;
use super::session::{Session, Sessions, Tries};
use crate::http::state::RouteState;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct ScreenState {
    pub(super) app: RouteState,
    pub(super) token: OpsToken,
    /// Where changes are asked for that are the API's to make.
    pub(super) api: Option<Arc<CouponApi>>,
    /// Taken by screens that may cost seconds.
    pub(super) slow: Arc<Semaphore>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) tries: Arc<Tries>,
    pub(super) live: Arc<Live>,
}

impl ScreenState {
    /// Makes a screen that may cost seconds, unless too many are being made.
    pub(super) async fn slowly(&self, screen: impl Future<Output = Response>) -> Response {
        let Ok(_turn) = self.slow.try_acquire() else {
            let why = "Others are looking at something large right now. Reload in a few seconds.";
            return notice(StatusCode::SERVICE_UNAVAILABLE, "Busy", why);
        };
        screen.await
    }

    pub(super) fn session(&self, headers: &HeaderMap) -> Option<Arc<Session>> {
        self.sessions.of(headers, Instant::now())
    }
}
