//! Every store over TLS and by logins: the main job and each repair that way, and each wrong thing
//! with its sentence. One set of servers for all of it.

mod job;
mod refused;
mod secrets;

use firstcome_stack::SecureServers;
use firstcome_testkit::{World, WorldStores};
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

/// A world whose processes know the secure ways only.
async fn world(name: &str) -> World {
    World::on(WorldStores::secure(servers().await), name).await
}
