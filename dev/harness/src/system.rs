//! One system: the settings of the product's programs, and what starts and supervises them.
//!
//! Programs get these settings and nothing else of the caller's environment. Nothing here panics,
//! because the demo and the bench use it too; [`crate::World`] is the same for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firstcome_shared::tuning::Tuning;
use firstcome_stack::{Janitor, Program, built_program};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::LIMIT;
use crate::logs::Logs;
use crate::service::Service;

/// A six-field cron expression that fires once a year, for schedules that a test should not meet.
const NEVER: &str = "0 0 0 1 1 *";

/// A kind of process of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Api,
    Consumer,
    Reconciler,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Api, Self::Consumer, Self::Reconciler];

    /// Returns the program, its command, and the beginning of the last line that it prints while it
    /// starts.
    fn command(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Api => ("firstcome-api", "serve", "listening on "),
            Self::Consumer => ("firstcome-api", "consume", "consuming "),
            Self::Reconciler => ("firstcome-reconciler", "daemon", "listening on "),
        }
    }
}

/// The settings that all programs of a system share, and what starts them and keeps their logs.
/// A janitor kills processes that outlive their owner.
#[derive(Debug)]
pub struct System {
    settings: Mutex<BTreeMap<String, String>>,
    programs: PathBuf,
    pub(crate) logs: Logs,
    /// `Drop` does not run if the owner is killed, so the janitor kills the remaining processes.
    janitor: Janitor,
}

impl System {
    /// Creates a system with these settings, which replace the general ones. By default the
    /// programs are those of [`built_program`], and logs go to a temporary folder.
    pub fn new(
        programs: Option<&Path>,
        logs: Option<&Path>,
        settings: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        let api = built_program("firstcome-api")?;
        let programs = programs.or(api.parent()).context("no folder")?;
        let [token, redeem, key] = [(); 3].map(|()| format!("{:032x}", rand::random::<u128>()));
        let general = [
            ("OPS_TOKEN", token),
            ("REDEEM_TOKEN", redeem),
            ("KAFKA_SIGNING_KEY", key),
            ("USER_AUTH", "trusted-header".to_owned()),
            ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
        ];
        let all = general.into_iter().chain(settings);
        let all = all.map(|(name, value)| (name.to_owned(), value));
        Ok(Self {
            settings: Mutex::new(all.collect()),
            // Programs start in another folder.
            programs: std::path::absolute(programs)?,
            logs: Logs::new(logs)?,
            janitor: Janitor::start()?,
        })
    }

    /// Returns the settings of one of several systems on the same servers: its names in Redis and
    /// Kafka, and schedules that run once a year. After its first passes, a daemon therefore sweeps
    /// only on request. It still reopens closed coupons and offers free slots by itself.
    pub fn named(name: &str) -> [(&'static str, String); 6] {
        [
            ("REDIS_KEY_PREFIX", name),
            ("KAFKA_TOPIC", name),
            ("KAFKA_GROUP", name),
            ("RECONCILE_CRON", NEVER),
            ("DEEP_CRON", NEVER),
            ("DIGEST_CRON", NEVER),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    }

    /// Sets a variable for all programs that are started later. An empty value removes it.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        ensure_read(name)?;
        self.settings.lock().insert(name.into(), value.into());
        Ok(())
    }

    /// Returns the value of a setting, which is empty if it is not set.
    pub fn setting(&self, name: &str) -> String {
        self.settings.lock().get(name).cloned().unwrap_or_default()
    }

    /// Returns all settings by name.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.settings.lock().clone()
    }

    /// Returns the command of a program of the product. Values in `own` override the system's
    /// settings, and an empty value removes a setting.
    pub fn command(&self, program: &str, args: &[&str], own: &[(&str, &str)]) -> Result<Command> {
        let mut settings = self.settings();
        for (name, value) in own {
            ensure_read(name)?;
            settings.insert((*name).to_owned(), (*value).to_owned());
        }
        settings.retain(|_, value| !value.is_empty());
        Ok(self.command_of(program, args, &settings))
    }

    /// Returns the command of a program with only these settings.
    pub fn command_of(
        &self,
        program: &str,
        args: &[&str],
        settings: &BTreeMap<String, String>,
    ) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).env_clear().envs(settings);
        command.current_dir(std::env::temp_dir());
        command
    }

    /// Starts a program. Its log has this name.
    pub fn launch(&self, name: &str, command: &mut Command) -> Result<Program> {
        Program::start(name, command, &self.logs.file(name), &self.janitor)
    }

    /// Creates missing tables and the topic.
    pub async fn migrate(&self, args: &[&str]) -> Result<()> {
        let all = [&["migrate"], args].concat();
        let migrate = self.launch("migrate", &mut self.command("firstcome-api", &all, &[])?)?;
        let ended = migrate.ended(LIMIT).await?;
        ensure!(ended.success(), "migrate: {ended}\n{}", migrate.log_tail());
        Ok(())
    }

    /// Starts a process with additional settings, and does not wait until it is ready.
    pub fn begin(&self, name: &str, role: Role, own: &[(&str, &str)]) -> Result<Program> {
        let (program, word, _) = role.command();
        self.launch(name, &mut self.command(program, &[word], own)?)
    }

    /// Starts a process with additional settings, and waits until it is ready.
    pub async fn start(&self, name: &str, role: Role, own: &[(&str, &str)]) -> Result<Service> {
        let (_, _, ready) = role.command();
        Service::ready(self.begin(name, role, own)?, ready).await
    }
}

/// Fails if the variable begins with `FIRSTCOME_TEST_` and no program reads it: a test that
/// shortens a constant under a wrong name would only be slow. `ProcessClock` sets the clock's
/// variable.
fn ensure_read(variable: &str) -> Result<()> {
    let is_known = variable
        .strip_prefix("FIRSTCOME_TEST_")
        .is_none_or(|name| name == "CLOCK" || Tuning::named(name).is_some());
    ensure!(is_known, "no program reads {variable}");
    Ok(())
}
