//! The live first screen. The overview is read once a second for all browsers together, and only
//! while one of them is watching.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse as _, Response, Sse};
use firstcome_shared::http::ops::{Allowed, OpsToken};
use firstcome_shared::http::seats::Seats;
use firstcome_shared::http::views::Overview;
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::board::{Board, board};
use super::client::{Backends, Credentials};
use super::state::ScreenState;

/// The part of the first screen that is live.
#[derive(Template)]
#[template(path = "board.html")]
struct Fragment<'a> {
    board: &'a Board,
}

const EVERY: Duration = Duration::from_secs(1);

/// Maximum number of live screens, each of operators and of viewers. Others have to reload the
/// page.
const LIVE_AT_ONCE: usize = 64;

/// Time after which a browser reconnects when it has lost its connection.
const RETRY: Duration = Duration::from_secs(3);

/// An update. The time of day is separate, because the rest of the HTML changes less often.
struct Update {
    at: String,
    html: String,
}

pub(super) struct Live {
    services: Arc<Backends>,
    /// All browsers see the same data, so it is read with the operators' token.
    caller: Option<Credentials>,
    updates: watch::Sender<Option<Arc<Update>>>,
    seats: Seats,
    wake: Notify,
    stop: CancellationToken,
}

impl Live {
    pub(super) fn new(services: &Arc<Backends>, token: &OpsToken, stop: CancellationToken) -> Self {
        let operators = token.signers().next();
        Self {
            services: Arc::clone(services),
            caller: operators.map(|signer| Credentials::program(signer.authorization)),
            updates: watch::channel(None).0,
            seats: Seats::new(LIVE_AT_ONCE, LIVE_AT_ONCE),
            wake: Notify::new(),
            stop,
        }
    }

    /// Runs until the process stops.
    pub(super) async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.look_while_wanted() => {}
        }
    }

    /// Reads once a second while a browser is watching.
    async fn look_while_wanted(&self) {
        loop {
            self.wake.notified().await;
            let mut ticks = tokio::time::interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while self.updates.receiver_count() > 0 {
                ticks.tick().await;
                self.look().await;
            }
        }
    }

    async fn look(&self) {
        let Some(caller) = &self.caller else { return };
        let seen = match self.services.get::<Overview>(caller, "/v1/overview").await {
            Ok(seen) => seen,
            Err(refusal) => {
                tracing::warn!(why = refusal.why, "the live screen shows an older state");
                return;
            }
        };
        let board = board(&seen);
        match (Fragment { board: &board }).render() {
            Ok(html) => {
                self.updates.send_replace(Some(Arc::new(Update {
                    at: board.at.clone(),
                    html,
                })));
            }
            Err(error) => tracing::error!(%error, "the operations page cannot be written"),
        }
    }
}

/// One watching browser.
struct Viewer {
    page: ScreenState,
    /// The headers with the cookie, so that the stream ends with the session.
    headers: HeaderMap,
    updates: watch::Receiver<Option<Arc<Update>>>,
    shown: Option<Arc<Update>>,
    _seat: OwnedSemaphorePermit,
}

/// The data of an event: the time of day, and the screen if that has changed.
#[derive(Serialize)]
struct Said<'a> {
    at: &'a str,
    html: Option<&'a str>,
}

/// Streams server-sent events. Each has the complete state, so that a lost event does not matter. A
/// browser that gets a 204 does not reconnect.
pub(super) fn stream(page: ScreenState, allowed: Allowed, headers: HeaderMap) -> Response {
    let live = &page.live;
    let Ok(seat) = Arc::clone(live.seats.of(allowed)).try_acquire_owned() else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let updates = live.updates.subscribe();
    live.wake.notify_one();
    let events = events(Viewer {
        page,
        headers,
        updates,
        shown: None,
        _seat: seat,
    });
    // Without this, nginx would buffer events.
    (
        [("x-accel-buffering", "no")],
        Sse::new(events).keep_alive(KeepAlive::default()),
    )
        .into_response()
}

fn events(viewer: Viewer) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(viewer, |mut viewer| async move {
        let changed = tokio::select! {
            biased;
            () = viewer.page.live.stop.cancelled() => return None,
            changed = viewer.updates.changed() => changed,
        };
        changed.ok()?;
        viewer.page.session(&viewer.headers).await?;
        let update = viewer.updates.borrow_and_update().clone()?;
        let is_new = viewer
            .shown
            .as_ref()
            .is_none_or(|shown| shown.html != update.html);
        let said = Said {
            at: &update.at,
            html: is_new.then_some(&update.html),
        };
        let event = Event::default().retry(RETRY).json_data(said).ok()?;
        viewer.shown = Some(update);
        Some((Ok(event), viewer))
    })
}
