//! The program as a process.

use std::process::Command;
use std::time::Duration;

use firstcome_stack::{Janitor, Program};
use tempfile::NamedTempFile;

use crate::world::World;

/// How long a condition may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const FILE: &str = r#"
max_rows_per_second = 1000000
[[campaign]]
name = "Winter"
mode = "repair"
quantity = 150
in_flight = "0.02s"
repair_limit = 1000
users = { key = "@users", type = "set" }
count = { key = "@count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
failed = { table = "failed_event", user = "user_id", where = { event_id = 7 }, done = "delete" }
"#;

/// The arguments of a daemon at a free port.
pub(crate) const DAEMON: [&str; 2] = ["--listen-addr", "127.0.0.1:0"];

pub(crate) fn attach(world: &World, campaigns: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-reconciler"));
    command.arg("attach").arg(world.file(campaigns)).args(args);
    command.env("DATABASE_URL", &world.ours);
    // The default is too short for a busy machine.
    command.env("STORE_TIMEOUT_MS", "10000");
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
