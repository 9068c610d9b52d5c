//! The server: binds, serves, and drains requests at shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::problem::no_such_route;
use firstcome_shared::http::{self, Limits, health, starting};
use firstcome_shared::telemetry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::routes::middleware::RequestGuard;
use super::routes::{for_machines, notes, readiness, router};
use super::state::App;
use super::{background, fd_limit, metrics, start};

/// A server that has passed all start-up checks and accepts connections.
pub struct ApiServer {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
    routes: Router,
    /// The listener and the routes of METRICS_ADDR.
    apart: Option<(TcpListener, Router)>,
    limits: Limits,
    refresh: Duration,
    /// Maximum time for claims in flight to end.
    drain: Duration,
}

impl ApiServer {
    /// Listens, then waits for the stores and checks them. Until the checks succeed, it responds
    /// that it is starting. Returns `None` if `shutdown` came first.
    pub async fn bind(
        args: ServeArgs,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<Self>> {
        let token = OpsToken::new(args.http.ops_token.clone());
        let token = token
            .and_then(|token| token.with_view(args.http.ops_view_token.as_ref()))
            .map_err(anyhow::Error::msg)?;
        let token = token.behind(args.http.ops_trusted_proxies);
        let prometheus = telemetry::init_metrics()?;
        metrics::describe();
        fd_limit::raise(args.http.max_connections);
        let wanted = args.http.listen_addr;
        let socket = listen(wanted).with_context(|| format!("cannot listen on {wanted}"))?;
        let own = args.http.metrics_addr.map(|wanted| {
            listen(wanted).with_context(|| format!("cannot listen on {wanted} (METRICS_ADDR)"))
        });
        let own = own.transpose()?;
        tracing::info!(address = %socket.local_addr()?, "starting");
        let started = start::services(&args, shutdown);
        let mut sockets = vec![socket.try_clone()?];
        sockets.extend(
            own.as_ref()
                .map(std::net::TcpListener::try_clone)
                .transpose()?,
        );
        let started = starting::answer_during(sockets, args.limits(), started);
        let started = Box::pin(started).await?;
        let Some(app) = started? else { return Ok(None) };
        let app = Arc::new(app);
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let timeout = Duration::from_millis(args.http.request_timeout_ms);
        let mut for_everybody = for_machines(token.clone(), &app.identity, prometheus);
        let mut apart = None;
        if let Some(own) = own {
            let own = TcpListener::from_std(own)?;
            tracing::info!(address = %own.local_addr()?, "METRICS_ADDR alone serves /metrics and /openapi.json, and also the health routes");
            let probes = health::routes_without_metrics(readiness(&app), notes(&app));
            apart = Some((
                own,
                std::mem::take(&mut for_everybody)
                    .merge(probes)
                    .fallback(no_such_route),
            ));
        }
        let guard = Arc::new(RequestGuard::new(timeout));
        let routes = router(&app, token, for_everybody, guard);
        let refresh = Duration::from_millis(args.catalogue_refresh_ms);
        // A claim waits for an earlier call to Redis and for its own call, each for at most twice
        // the timeout, then for Kafka and the fallback.
        let drain = args.publish.longest_in_flight()
            + 4 * args.mysql.store_timeout()
            + Duration::from_secs(1);
        let limits = Limits {
            drain,
            ..args.limits()
        };
        Ok(Some(Self {
            app,
            listener,
            address,
            routes,
            apart,
            limits,
            refresh,
            drain,
        }))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then drains.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut tasks = background::start(&self.app, self.refresh);
        let close = CancellationToken::new();
        let app = App::clone(&self.app);
        let closing = close.clone();
        tokio::spawn(async move {
            shutdown.cancelled().await;
            app.stopping.cancel();
            closing.cancel();
        });
        let closing = close.clone();
        let begun = tokio::spawn(async move {
            closing.cancelled().await;
            Instant::now()
        });
        if let Some((listener, routes)) = self.apart {
            tokio::spawn(http::serve(
                listener,
                routes,
                Limits::FOR_MACHINES,
                close.clone(),
            ));
        }
        let serving = http::serve(self.listener, self.routes, self.limits, close.clone());
        tokio::pin!(serving);
        let broken = tokio::select! {
            () = &mut serving => None,
            ended = tasks.join_next() => {
                let what = ended.map(|result| result.unwrap_or("a background task, by a panic"));
                close.cancel();
                serving.await;
                Some(what.unwrap_or("every background task"))
            }
        };
        // Requests, claims in flight and messages share one deadline.
        let ends_at = begun.await? + self.drain;
        finish(&self.app, ends_at).await;
        match broken {
            None => Ok(()),
            Some(what) => anyhow::bail!("{what} ended; start this process again"),
        }
    }
}

/// Maximum number of connections that wait to be accepted. All clients of a drop connect at once,
/// and a refused client retries only a second later. The system lowers this value to its own limit.
const BACKLOG: u32 = 16_384;

fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Waits for claims in flight, whose clients may have disconnected, then for the messages of the
/// producer.
async fn finish(app: &App, ends_at: Instant) {
    let rest = || ends_at.saturating_duration_since(Instant::now());
    let left = app.in_flight.finish(rest()).await;
    if left > 0 {
        tracing::warn!(
            left,
            "claims were still in flight at shutdown; the reconciler finishes those that were admitted"
        );
    }
    let unsent = app.claims.second_store().publisher().flush(rest()).await;
    if unsent > 0 {
        tracing::warn!(
            unsent,
            "Kafka did not acknowledge all messages; MySQL holds the acknowledged claims"
        );
    }
    tracing::info!("stopped");
}
