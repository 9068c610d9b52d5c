//! `firstcome-api serve`: start-up with its checks, the server, and a shutdown that finishes what is in hand.

mod args;
mod auth;
mod background;
mod catalogue;
mod claim;
mod fd_limit;
mod metrics;
mod routes;
mod start;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::{self, Limits};
use firstcome_shared::telemetry;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

pub use args::{HttpArgs, ServeArgs};
pub use auth::jwt::JwtArgs;
pub use auth::{IdentityArgs, UserAuth};

use auth::Identity;
use routes::claim::Front;
use state::App;

/// Serves until `shutdown`. Prints `listening on http://…` to standard output once requests are accepted.
pub async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Some(server) = Server::bind(args, &shutdown).await? else { return Ok(()) };
    println!("listening on http://{}", server.address());
    server.run(shutdown).await
}

/// A server that has passed every check of start-up and accepts connections.
pub struct Server {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
    front: Front,
    limits: Limits,
    refresh: Duration,
    /// Longest time that claims in hand may take to end.
    patience: Duration,
}

impl Server {
    /// Waits for the stores, checks them, and listens. `None` when told to stop meanwhile.
    pub async fn bind(args: ServeArgs, shutdown: &CancellationToken) -> anyhow::Result<Option<Self>> {
        let token = OpsToken::new(args.http.ops_token.clone()).map_err(anyhow::Error::msg)?;
        let identity = Identity::new(&args.identity).map_err(anyhow::Error::msg)?;
        let prometheus = telemetry::init_metrics()?;
        metrics::describe();
        fd_limit::allow(args.http.max_connections);
        let Some(app) = start::services(&args, identity, shutdown).await? else { return Ok(None) };
        let app = Arc::new(app);
        let wanted = args.http.listen_addr;
        let listener = listen(wanted).with_context(|| format!("cannot listen on {wanted}"))?;
        let address = listener.local_addr()?;
        let measures = Arc::default();
        let front = Front::new(&app, routes::router(&app, token, prometheus, Arc::clone(&measures)), measures);
        let refresh = Duration::from_millis(args.catalogue_refresh_ms);
        // A claim waits for a call to Redis and then for its own, both twice at most; then for Kafka, then for the backup table.
        let patience = args.publish.longest_in_flight() + 4 * args.redis.settings().timeout + Duration::from_secs(1);
        let limits = Limits { drain: patience, ..args.http.limits() };
        Ok(Some(Self { app, listener, address, front, limits, refresh, patience }))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then finishes what is in hand.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut tasks = background::start(&self.app, self.refresh);
        let serving = http::serve_by(self.listener, self.front, self.limits, shutdown.clone());
        tokio::pin!(serving);
        let broken = tokio::select! {
            () = &mut serving => None,
            ended = tasks.join_next() => {
                let what = ended.map(|result| result.unwrap_or("a background task, by a panic"));
                shutdown.cancel();
                serving.await;
                Some(what.unwrap_or("every background task"))
            }
        };
        finish(&self.app, self.patience).await;
        match broken {
            None => Ok(()),
            Some(what) => anyhow::bail!("{what} ended; start this process again"),
        }
    }
}

/// Connections that may wait to be taken: a drop's crowd comes at once, and whom the system turns away tries again only a
/// second later. It lowers this to what it allows itself.
const BACKLOG: u32 = 16_384;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Claims whose client is gone are still worked; then the producer sends what it holds.
async fn finish(app: &App, patience: Duration) {
    let left = app.in_hand.finish(patience).await;
    if left > 0 {
        tracing::warn!(left, "claims were still in hand at shutdown; the reconciler finishes what was admitted");
    }
    let unsent = app.claims.promises.publisher().flush(patience).await;
    if unsent > 0 {
        tracing::warn!(unsent, "messages were not acknowledged by Kafka; the backup table holds what was promised");
    }
    tracing::info!("stopped");
}
