//! All stores over TLS and with logins: claims, repairs, and an error message for each wrong
//! setting. All tests share one set of servers.

mod job;
mod refused;
mod secrets;

use firstcome_harness::{World, WorldStores};
use firstcome_stack::SecureServers;
use tokio::sync::OnceCell;

static SERVERS: OnceCell<SecureServers> = OnceCell::const_new();

async fn servers() -> &'static SecureServers {
    let start = async || {
        SecureServers::start()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    SERVERS.get_or_init(start).await
}

/// Creates a world whose processes get only the secure addresses.
async fn world(name: &str) -> World {
    World::on(WorldStores::secure(servers().await), name).await
}
