//! The state that all screens share, and what their handlers read from a request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::ExtensionRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form};
use chrono::Utc;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::seats::Seats;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use super::client::{Backends, HttpRefusal};
use super::html::{not_understood, notice};
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
    /// Returns the session of a request. While the list of log-outs is unavailable, ended sessions
    /// are still accepted.
    pub(crate) async fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let session = Session::of(headers, &self.token, Utc::now())?;
        let was_ended = timeout(PATIENCE, self.log_outs.was_ended(&session.id)).await;
        (!matches!(was_ended, Ok(Ok(true)))).then_some(session)
    }
}

/// The shared state, for a logged-in operator.
pub(crate) struct Page {
    pub(crate) state: ScreenState,
    pub(crate) session: Arc<Session>,
}

impl FromRequestParts<ScreenState> for Page {
    type Rejection = ExtensionRejection;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ScreenState,
    ) -> Result<Self, ExtensionRejection> {
        let Extension(session) =
            Extension::<Arc<Session>>::from_request_parts(parts, state).await?;
        Ok(Self {
            state: state.clone(),
            session,
        })
    }
}

impl Page {
    pub(crate) fn has_api(&self) -> bool {
        self.state.services.has_api()
    }

    /// Renders a screen that may take seconds, unless too many of these are being rendered.
    pub(crate) async fn slowly(&self, screen: impl Future<Output = impl IntoResponse>) -> Response {
        let Ok(_turn) = self.state.slow.of(self.session.allowed).try_acquire() else {
            let why = "Others are looking at something large right now. Reload in a few seconds.";
            return notice("Busy", StatusCode::SERVICE_UNAVAILABLE, why);
        };
        screen.await.into_response()
    }

    /// Reads from the reconciler.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpRefusal> {
        self.state.services.get(&self.session.caller, path).await
    }

    /// Changes something through the reconciler.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        let services = &self.state.services;
        services.post(&self.session.caller, path, body).await
    }

    /// Sends a request to the API.
    pub(crate) async fn api<T: DeserializeOwned + Default>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<T, HttpRefusal> {
        let services = &self.state.services;
        services
            .ask_api(&self.session.caller, method, path, body, header)
            .await
    }
}

/// The query of a request, or the default if the query is invalid.
pub(crate) struct OrDefault<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequestParts<ScreenState> for OrDefault<T> {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &ScreenState,
    ) -> Result<Self, Infallible> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        Ok(Self(query.map(|Query(query)| query).unwrap_or_default()))
    }
}

/// A form of this page. Others are rejected.
pub(crate) struct OwnForm<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ScreenState> for OwnForm<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &ScreenState) -> Result<Self, Response> {
        let form = Form::<T>::from_request(request, state).await;
        form.map(|Form(form)| Self(form))
            .map_err(|_| not_understood())
    }
}
