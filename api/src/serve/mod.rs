//! `firstcome-api serve`: serves HTTP, admits users, creates and changes coupons.

mod args;
pub(crate) mod auth;
mod bulkheads;
mod catalogue;
mod claim;
mod metrics;
mod openness;
mod routes;
mod server;
mod start;
mod state;
mod wrong_codes;

use tokio_util::sync::CancellationToken;

pub(crate) use args::LISTEN_ADDR;
pub use args::{HttpArgs, ServeArgs};
pub use auth::jwt::JwtArgs;
pub use auth::{IdentityArgs, UserAuth};
pub use server::ApiServer;

/// Serves until `shutdown`. Prints `listening on http://…` to standard output once the stores are
/// checked; until then it answers that it is starting.
pub async fn run(args: ServeArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Some(server) = ApiServer::bind(args, &shutdown).await? else {
        return Ok(());
    };
    firstcome_shared::say!("listening on http://{}", server.address()?);
    server.run(shutdown).await
}
