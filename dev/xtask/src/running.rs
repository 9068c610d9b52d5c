//! Tasks on a system that was started by `make run`. Its addresses and programs are in
//! target/run/env.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::programs::{Profile, target};
use crate::shell::{command, exec, path_with, setting};

/// The settings of the running system.
struct Running(BTreeMap<String, String>);

impl Running {
    fn find() -> Result<Self> {
        let Ok(text) = std::fs::read_to_string(target().join("run/env")) else {
            bail!("no system is running: start `make run` in another terminal");
        };
        Ok(Self(parse(&text)))
    }

    /// Returns the command of a program of the system, with its settings.
    fn program(&self, name: &str) -> Result<Command> {
        let folder = self
            .0
            .get("PROGRAMS")
            .context("target/run/env has no PROGRAMS")?;
        let mut program = command(Path::new(folder).join(name));
        program.envs(self.0.iter().filter(|(name, _)| *name != "PATH"));
        program.env("PATH", path_with(&std::path::absolute(folder)?)?);
        Ok(program)
    }
}

/// Parses lines of the format NAME='value' like a shell.
fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}

pub(crate) fn rush(args: &[String]) -> Result<()> {
    let running = Running::find()?;
    let apis = running
        .0
        .get("API_URLS")
        .context("target/run/env has no API_URLS")?;
    let mut rush = running.program("rush")?;
    exec(rush.env("API_URL", apis).args(args))
}

pub(crate) fn drift() -> Result<()> {
    if setting("KIND").as_deref() == Some("?") {
        return exec(&mut Profile::or("dev").program("firstcome-drift"));
    }
    exec(&mut Running::find()?.program("firstcome-drift")?)
}

pub(crate) fn mysql() -> Result<()> {
    exec(Running::find()?.program("firstcome-stack")?.arg("mysql"))
}
