//! What has to hold for each system: its file is short, its sale is exact, what breaks is named, and
//! a row comes back as far as the file can prove it.

use anyhow::{Context as _, ensure};
use firstcome_shared::report::Finding;
use firstcome_shops::{Repair, System, for_user};

use crate::daemon::{Daemon, told};
use crate::world::World;

/// Users who have their rows before anything breaks.
pub(crate) const SOLD: u32 = 20;

/// What the file may hold, besides the addresses.
const LINES: usize = 11;

async fn run(world: &World, steps: &[&str], user: u32) {
    let steps = for_user(steps, user);
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    world.run(&steps).await;
}

async fn sell(world: &World, system: &System, user: u32) {
    run(world, system.admits, user).await;
    run(world, system.issues, user).await;
}

fn must_be(findings: &[Finding], expected: &[&str]) -> anyhow::Result<()> {
    let found = told(findings);
    ensure!(
        found == expected,
        "{found:?} instead of {expected:?}: {findings:#?}"
    );
    Ok(())
}

/// Proves all systems, and reports every failure.
pub(crate) async fn prove(systems: &[System]) {
    let mut failed = Vec::new();
    for system in systems {
        let world = World::on(system.product, &[]).await;
        if let Err(error) = prove_in(&world, system).await {
            failed.push(format!("{}: {error:#}", system.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

pub(crate) async fn prove_in(world: &World, system: &System) -> anyhow::Result<()> {
    let lines = system.file.lines().count();
    ensure!(lines <= LINES, "{lines} lines");
    world.run(system.opens).await;
    for user in 1..SOLD {
        sell(world, system, user).await;
    }
    let daemon = world.daemon(system.file);
    let second = daemon.restarted();
    for process in [&daemon, &second] {
        process.pass().await;
    }
    sell(world, system, SOLD).await;
    second.pass().await;
    must_be(&daemon.settle().await, &[]).context("at first")?;

    run(world, system.loses, 3).await;
    must_be(&daemon.settle().await, system.named).context("a row is lost")?;
    if system.repair == Repair::Observes {
        run(world, system.issues, 3).await;
    } else {
        let confirmed = daemon.confirm().await;
        must_be(&confirmed, &["1 unissued applied"]).context("confirmed")?;
        lose_message(system, world, &second).await?;
    }
    for fault in system.faults {
        run(world, fault.steps, 5).await;
        let found = daemon.settle().await;
        must_be(&found, fault.named).with_context(|| format!("{:?}", fault.steps))?;
        daemon.run_commands(world).await?;
    }
    must_be(&daemon.settle().await, &[]).context("at last")
}

/// The message of a new user is lost.
async fn lose_message(system: &System, world: &World, daemon: &Daemon) -> anyhow::Result<()> {
    must_be(&daemon.settle().await, &[]).context("in a second process")?;
    run(world, system.admits, SOLD + 1).await;
    let found = daemon.settle().await;
    let confirmed = if system.repair == Repair::Asks {
        must_be(&found, &["1 unissued planned"]).context("a message is lost")?;
        daemon.confirm().await
    } else {
        found
    };
    must_be(&confirmed, &["1 unissued applied"]).context("a lost message")
}
/// A sale of a system.
pub(crate) trait Sold {
    /// Sells, and lets a person confirm the first plan, the row of user 21. From then on, rows of
    /// new users need nobody.
    async fn trusted(&self) -> (World, Daemon);
    /// Sells to 20 users, the last of whom comes while a process looks.
    async fn sold(&self) -> (World, Daemon);
    async fn admit(&self, world: &World, user: u32);
    async fn issue(&self, world: &World, user: u32);
}

impl Sold for System {
    async fn trusted(&self) -> (World, Daemon) {
        let (world, daemon) = self.sold().await;
        self.admit(&world, SOLD + 1).await;
        assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
        assert_eq!(told(&daemon.confirm().await), ["1 unissued applied"]);
        (world, daemon)
    }

    async fn sold(&self) -> (World, Daemon) {
        let world = World::on(self.product, &[]).await;
        world.run(self.opens).await;
        let daemon = world.daemon(self.file);
        for user in 1..=SOLD {
            if user == SOLD {
                daemon.pass().await;
            }
            sell(&world, self, user).await;
        }
        let found = daemon.settle().await;
        assert!(found.is_empty(), "{}: {found:#?}", self.name);
        (world, daemon)
    }

    async fn admit(&self, world: &World, user: u32) {
        run(world, self.admits, user).await;
    }

    async fn issue(&self, world: &World, user: u32) {
        run(world, self.issues, user).await;
    }
}

impl Daemon {
    /// Runs what it printed for people, as they would: in redis-cli.
    pub(crate) async fn run_commands(&self, world: &World) -> anyhow::Result<()> {
        for command in self.commands() {
            let url = &world.redis_url;
            let ran = tokio::process::Command::new("sh")
                .args(["-c", &format!("redis-cli -u {url} {command}")])
                .output()
                .await?;
            let answer = String::from_utf8_lossy(&ran.stdout).into_owned();
            ensure!(
                ran.status.success() && !answer.contains("ERR"),
                "{command}: {answer}"
            );
        }
        Ok(())
    }
}
