//! A system as a table describes it, and what has to hold for each: its file is short, its sale is
//! exact, what breaks is named, and a row comes back as far as the file can prove it.

use anyhow::{Context as _, ensure};
use firstcome_shared::report::Finding;

use crate::daemon::{Daemon, told};
use crate::world::{Product, World};

/// Users who have their rows before anything breaks.
pub(crate) const SOLD: u32 = 20;

/// What the file may hold, besides the addresses.
const LINES: usize = 11;

/// Who writes a lost row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repair {
    /// The reconciler, once a person has confirmed a first plan of the text.
    Unasked,
    /// The reconciler, if a person confirms it.
    Asks,
    /// Their own program or a person.
    Observes,
}

/// `{U}` or `{UUID}` is the user, and `@` the prefix of keys. Steps are SQL or Redis commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    pub(crate) product: Product,
    pub(crate) opens: &'static [&'static str],
    /// What their API does for a winner.
    pub(crate) admits: &'static [&'static str],
    /// What their consumer does.
    pub(crate) issues: &'static [&'static str],
    /// The file without its addresses. The quantity is 30.
    pub(crate) file: &'static str,
    /// Takes the row of `{U}`.
    pub(crate) loses: &'static [&'static str],
    /// What that is called.
    pub(crate) named: &'static [&'static str],
    pub(crate) repair: Repair,
    /// Further faults, and what they are called. Then the printed commands are run.
    pub(crate) faults: &'static [(&'static [&'static str], &'static [&'static str])],
}

fn for_user(steps: &[&str], user: u32) -> Vec<String> {
    let steps = steps.iter();
    let uuid = format!("0193a1f2-7c00-7d31-8000-{user:012}");
    steps
        .map(|step| {
            step.replace("{UUID}", &uuid)
                .replace("{U}", &user.to_string())
        })
        .collect()
}

async fn run(world: &World, steps: &[&str], user: u32) {
    let steps = for_user(steps, user);
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    world.run(&steps).await;
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
        if let Err(error) = system.prove().await {
            failed.push(format!("{}: {error:#}", system.name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

impl System {
    async fn prove(&self) -> anyhow::Result<()> {
        let lines = self.file.lines().count();
        ensure!(lines <= LINES, "{lines} lines");
        let world = World::on(self.product, &[]).await;
        world.run(self.opens).await;
        for user in 1..=SOLD {
            run(&world, self.admits, user).await;
            run(&world, self.issues, user).await;
        }
        let daemon = world.daemon(self.file);
        must_be(&daemon.settle().await, &[]).context("at first")?;

        run(&world, self.loses, 3).await;
        must_be(&daemon.settle().await, self.named).context("a row is lost")?;
        if self.repair == Repair::Observes {
            run(&world, self.issues, 3).await;
        } else {
            let confirmed = daemon.confirm().await;
            must_be(&confirmed, &["1 unissued applied"]).context("confirmed")?;
            self.lose_message(&world, &daemon).await?;
        }
        for (steps, named) in self.faults {
            world.run(steps).await;
            let found = daemon.settle().await;
            must_be(&found, named).with_context(|| format!("{steps:?}"))?;
            daemon.run_commands(&world).await?;
        }
        must_be(&daemon.settle().await, &[]).context("at last")
    }

    /// Sells, and lets a person confirm the first plan, the row of user 21. From then on, rows of
    /// new users need nobody.
    pub(crate) async fn trusted(&self) -> (World, Daemon) {
        let (world, daemon) = self.sold().await;
        self.admit(&world, SOLD + 1).await;
        assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
        assert_eq!(told(&daemon.confirm().await), ["1 unissued applied"]);
        (world, daemon)
    }

    /// Sells to 20 users, and starts a process that has looked.
    pub(crate) async fn sold(&self) -> (World, Daemon) {
        let world = World::on(self.product, &[]).await;
        world.run(self.opens).await;
        for user in 1..=SOLD {
            self.admit(&world, user).await;
            self.issue(&world, user).await;
        }
        let daemon = world.daemon(self.file);
        let found = daemon.settle().await;
        assert!(found.is_empty(), "{}: {found:#?}", self.name);
        (world, daemon)
    }

    pub(crate) async fn admit(&self, world: &World, user: u32) {
        run(world, self.admits, user).await;
    }

    pub(crate) async fn issue(&self, world: &World, user: u32) {
        run(world, self.issues, user).await;
    }

    /// The message of a new user is lost.
    async fn lose_message(&self, world: &World, daemon: &Daemon) -> anyhow::Result<()> {
        let daemon = daemon.restarted();
        must_be(&daemon.settle().await, &[]).context("after a restart")?;
        run(world, self.admits, SOLD + 1).await;
        let found = daemon.settle().await;
        let confirmed = if self.repair == Repair::Asks {
            must_be(&found, &["1 unissued planned"]).context("a message is lost")?;
            daemon.confirm().await
        } else {
            found
        };
        must_be(&confirmed, &["1 unissued applied"]).context("a lost message")
    }
}

impl Daemon {
    /// Runs what it printed for people, as they would: in redis-cli.
    pub(crate) async fn run_commands(&self, world: &World) -> anyhow::Result<()> {
        for command in self.commands() {
            let port = world.redis_url.rsplit(':').next().unwrap_or_default();
            let ran = tokio::process::Command::new("sh")
                .args(["-c", &format!("redis-cli -p {port} {command}")])
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
