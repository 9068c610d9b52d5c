//! The server: binds, serves, and drains requests at shutdown.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::problem::no_such_route;
use firstcome_shared::http::{self, Limits, Routes, health, starting};
use firstcome_shared::telemetry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::routes::{contract, fast_path, for_machines, notes, readiness, router};
use super::state::App;
use super::{metrics, openness, start};

/// A server that has passed all start-up checks and accepts connections.
pub struct ApiServer {
    app: App,
    listener: TcpListener,
    routes: Router,
    /// Ends all listeners.
    close: CancellationToken,
    limits: Limits,
    refresh: Duration,
}

impl ApiServer {
    /// Listens, then waits for the stores and checks them. Until the checks succeed, the listener
    /// responds that the API is starting. Returns `None` if `shutdown` came first.
    pub async fn bind(
        args: ServeArgs,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let token = OpsToken::new(&args.http.ops_token, args.http.ops_view_token.as_ref())
            .and_then(|token| token.with_redeem(args.http.redeem_token.as_ref()))
            .map_err(anyhow::Error::msg)?;
        let prometheus = telemetry::init_metrics()?;
        metrics::describe();
        allow_open_files();
        let socket = listen("LISTEN_ADDR", args.http.listen_addr)?;
        let apart = args
            .http
            .metrics_addr
            .map(|wanted| listen("METRICS_ADDR", wanted))
            .transpose()?;
        tracing::info!(address = %socket.local_addr()?, "starting");
        let started = start::services(&args, shutdown);
        let started = starting::answer_during(&socket, args.limits(), started);
        let Some(app) = Box::pin(started).await?? else {
            return Ok(None);
        };
        let app = Arc::new(app);
        let close = CancellationToken::new();
        let (public, document) = contract(token)?;
        let mut machines = for_machines(document, prometheus);
        if let Some(apart) = apart {
            tracing::info!(
                address = %apart.local_addr()?,
                "METRICS_ADDR alone serves /metrics and /openapi.json, and also the health routes"
            );
            let probes = health::routes(readiness(&app), notes(&app));
            let routes = std::mem::take(&mut machines)
                .merge(probes)
                .fallback(no_such_route);
            let listener = TcpListener::from_std(apart)?;
            let serving = http::serve(listener, routes, Limits::FOR_MACHINES, close.clone());
            tokio::spawn(serving);
        }
        let routes = router(&app, public, machines);
        let listener = TcpListener::from_std(socket)?;
        Ok(Some(Self {
            app,
            listener,
            routes,
            close,
            limits: args.limits(),
            refresh: Duration::from_millis(args.catalogue_refresh_ms),
        }))
    }

    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let app = self.app;
        let mut working = tokio::spawn(background(App::clone(&app), self.refresh));
        let close = self.close;
        let routes = Routes::new(self.routes);
        let services = App::clone(&app);
        let answer = move |peer, request| fast_path::answer(&services, &routes, peer, request);
        let serving = tokio::spawn(http::serve_with(
            self.listener,
            answer,
            self.limits,
            close.clone(),
        ));
        let is_broken = tokio::select! {
            () = shutdown.cancelled() => false,
            _ = &mut working => true,
        };
        // Requests, claims in flight and messages share one deadline.
        let ends_at = Instant::now() + self.limits.drain;
        app.stopping.cancel();
        close.cancel();
        serving.await.context("the server panicked")?;
        finish(&app, ends_at).await;
        working.abort();
        let why = "the background work ended; start this process again";
        anyhow::ensure!(!is_broken, "{why}");
        Ok(())
    }
}

/// Maximum number of connections that wait to be accepted. All clients of a drop connect at once,
/// and a refused client retries only a second later. The system lowers this value to its own limit.
const BACKLOG: u32 = 16_384;

fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    };
    listening().with_context(|| format!("cannot listen on {address} ({setting})"))
}

/// Raises the number of files that this process may open as far as the system allows it. Many
/// shells allow only 1,024, and each connection is one.
fn allow_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        tracing::warn!(%error, "the limit of open files (`ulimit -n`) could not be raised");
    }
}

/// Refreshes the catalogue and the keys of tokens, and watches Redis and the topic. It must never
/// end: if it does, which is a bug, the process stops.
async fn background(app: App, refresh: Duration) {
    let keys = async {
        match app.identity.key_set() {
            Some(keys) => keys.keep_fresh().await,
            None => pending().await,
        }
    };
    tokio::join!(
        app.catalogue.keep_fresh(refresh),
        app.second_store.publisher.watch_topic(),
        openness::watch(&app),
        keys,
    );
}

/// Waits for claims in flight, whose clients may have disconnected, then for the messages of the
/// producer.
async fn finish(app: &App, ends_at: Instant) {
    let rest = || ends_at.saturating_duration_since(Instant::now());
    let claims = app.in_flight.finish(rest()).await;
    let messages = app.second_store.publisher.flush(rest()).await;
    if claims > 0 || messages != 0 {
        let what = "not finished at shutdown; the reconciler finishes claims that were admitted";
        tracing::warn!(claims, messages, "{what}");
    }
    tracing::info!("stopped");
}
