//! The program as a process.

#[path = "../../../attach/tests/systems/world.rs"]
#[allow(dead_code, reason = "the engine's own tests use all of it")]
mod world;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use firstcome_stack::{Janitor, Program};
use tempfile::NamedTempFile;

pub(crate) use world::World;

/// How long a condition may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const FILE: &str = r#"
[[campaign]]
name = "Winter"
mode = "repair"
quantity = 150
in_flight = "1s"
promised = { set = "@users" }
issued = "SELECT user_id FROM coupon WHERE event_id = 7"
failed = "SELECT id, user_id FROM failed_event WHERE event_id = 7"
queue = []
resolve = "DELETE FROM failed_event WHERE id = :failed"
issue = ["INSERT INTO coupon (event_id, user_id) VALUES (7, :user)"]
check = []
"#;

const TABLES: [&str; 2] = [
    "CREATE TABLE coupon (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, user_id \
     VARCHAR(64) NOT NULL, UNIQUE KEY (event_id, user_id))",
    "CREATE TABLE failed_event (id BIGINT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, \
     user_id VARCHAR(64) NOT NULL)",
];

/// Creates a shop with twelve users, of whom two have no row, and with an event of a user who was
/// never promised a coupon.
pub(crate) async fn shop() -> World {
    let shop = World::new(&TABLES).await;
    for user in 0..12 {
        let _: i64 = shop.redis(&format!("SADD @users user-{user}")).await;
        if user >= 2 {
            let insert =
                format!("INSERT INTO coupon (event_id, user_id) VALUES (7, 'user-{user}')");
            shop.sql(&insert).await;
        }
    }
    shop.sql("INSERT INTO failed_event (event_id, user_id) VALUES (7, 'user-99')")
        .await;
    shop
}

/// The arguments of a daemon at a free port.
pub(crate) const DAEMON: [&str; 2] = ["--listen-addr", "127.0.0.1:0"];

pub(crate) fn file(shop: &World, campaigns: &str) -> PathBuf {
    let process = std::process::id();
    let name = format!("attach-{process}-{}.toml", shop.named("@").replace(':', ""));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, shop.file(campaigns)).unwrap();
    path
}

/// The program, without a database of ours.
pub(crate) fn alone(shop: &World, campaigns: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-reconciler"));
    command.arg("attach").arg(file(shop, campaigns)).args(args);
    // The default is too short for a busy machine.
    command.env("STORE_TIMEOUT_MS", "10000");
    command
}

pub(crate) fn attach(shop: &World, campaigns: &str, args: &[&str]) -> Command {
    let mut command = alone(shop, campaigns, args);
    command.env("DATABASE_URL", &shop.ours);
    command
}

/// A running program, killed on drop.
pub(crate) struct Running {
    pub(crate) program: Program,
    _log: NamedTempFile,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let log = NamedTempFile::new().unwrap();
        let janitor = Janitor::start().unwrap();
        let program = Program::start("attach", command, log.path(), &janitor).unwrap();
        Self { program, _log: log }
    }
}
