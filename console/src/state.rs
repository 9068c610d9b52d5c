//! The state that all screens share.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::Utc;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::seats::Seats;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::client::{Backends, HttpRefusal};
use super::html::notice;
use super::live::Live;
use super::session::Session;

/// Maximum wait for the list of log-outs. It is short, because the page matters most while a store
/// is unavailable.
const PATIENCE: Duration = Duration::from_secs(1);

/// The list of log-outs. Session cookies are signed, so only this list can end a session early.
pub trait LogOuts: Send + Sync {
    fn was_ended<'a>(&'a self, session: &'a str) -> BoxFuture<'a, anyhow::Result<bool>>;

    /// Ends a session, and stores that for the given time.
    fn end<'a>(
        &'a self,
        session: &'a str,
        remembered: Duration,
    ) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// The shared state. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ScreenState {
    pub(crate) services: Arc<Backends>,
    pub(crate) token: OpsToken,
    pub(crate) log_outs: Arc<dyn LogOuts>,
    /// Limits the number of screens that may take seconds.
    pub(crate) slow: Seats,
    pub(crate) live: Arc<Live>,
}

impl ScreenState {
    /// Renders a screen that may take seconds, unless too many of these are being rendered.
    pub(crate) async fn slowly(
        &self,
        session: &Session,
        screen: impl Future<Output = Response>,
    ) -> Response {
        let Ok(_turn) = self.slow.of(session.allowed).try_acquire() else {
            let why = "Others are looking at something large right now. Reload in a few seconds.";
            return notice("Busy", StatusCode::SERVICE_UNAVAILABLE, why);
        };
        screen.await
    }

    /// Returns the session of a request. While the list of log-outs is unavailable, ended sessions
    /// are still accepted.
    pub(crate) async fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let session = Session::of(headers, &self.token, Utc::now())?;
        let was_ended = timeout(PATIENCE, self.log_outs.was_ended(&session.id)).await;
        (!matches!(was_ended, Ok(Ok(true)))).then_some(session)
    }

    /// Reads from the reconciler.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        session: &Session,
        path: &str,
    ) -> Result<T, HttpRefusal> {
        self.services.get(&session.caller, path).await
    }

    /// Changes something through the reconciler.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        session: &Session,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        self.services.post(&session.caller, path, body).await
    }
}
