//! docker-compose.yml under its own project name, run by `docker compose` or by podman-compose.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::attack::python_package;
use crate::shell::{command, output, root, run};

const PODMAN_COMPOSE: &str = "1.6.0";
const PROJECT: &str = "firstcome-check";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// With stand-ins for the images of others, because it is used where none can be pulled
    Podman,
    /// With the images that docker-compose.yml names
    Docker,
}

pub(super) enum Compose {
    Podman { program: PathBuf },
    Docker,
}

impl Compose {
    pub(super) fn new(engine: Engine) -> Result<Self> {
        Ok(match engine {
            Engine::Podman => Self::Podman {
                program: python_package("podman-compose", PODMAN_COMPOSE)?
                    .join("bin/podman-compose"),
            },
            Engine::Docker => Self::Docker,
        })
    }

    /// Builds our image as docker-compose.yml says.
    pub(super) fn build(&self) -> Result<()> {
        run(&mut self.command(&["build"]))
    }

    /// Builds the image of the service `demo`.
    pub(super) fn build_demo(&self) -> Result<()> {
        run(&mut self.command(&["--profile", "demo", "build", "demo"]))
    }

    /// Runs the service `demo`, or this command in it. Returns what it prints.
    pub(super) fn run_demo(&self, words: &[&str]) -> Result<String> {
        let run = ["--profile", "demo", "run", "--rm", "-T", "demo"];
        output(self.command(&run).args(words))
    }

    /// Runs the service `attach` with these words. Returns what it complains about.
    pub(super) fn run_attach(&self, words: &[&str]) -> Result<String> {
        let run = ["--profile", "attach", "run", "--rm", "-T", "attach"];
        let done = self.command(&run).args(words).output()?;
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    pub(super) fn up(&self) -> Result<()> {
        self.quietly(&["up", "--no-build", "-d"])
    }

    /// Removes the containers and keeps the volumes.
    pub(super) fn down(&self) -> Result<()> {
        self.quietly(&["down"])
    }

    /// Removes the containers and their volumes at once, without time to finish.
    pub(super) fn remove(&self) -> Result<()> {
        self.quietly(&["down", "--volumes", "--timeout", "0"])
    }

    pub(super) fn stop(&self, service: &str) -> Result<()> {
        self.quietly(&["stop", service])
    }

    pub(super) fn start(&self, service: &str) -> Result<()> {
        self.quietly(&["start", service])
    }

    /// Returns a variable of the file that the service `secrets` has generated.
    pub(super) fn secret(&self, name: &str) -> Result<String> {
        let read = ["run", "--rm", "-T", "secrets", "cat", "/secrets/env"];
        let variables = output(&mut self.command(&read))?;
        let start = format!("export {name}=");
        variables
            .lines()
            .find_map(|line| line.trim().strip_prefix(&start))
            .map(str::to_owned)
            .with_context(|| format!("no {name} among the secrets"))
    }

    /// Prints the last lines of each container, to show the reason of a failure.
    pub(super) fn print_logs(&self) {
        if let Err(error) = run(&mut self.command(&["logs", "--tail", "20"])) {
            eprintln!("[containers] no logs: {error:#}");
        }
    }

    /// Runs a command whose output is a list of names, and shows only its errors.
    fn quietly(&self, words: &[&str]) -> Result<()> {
        run(self.command(words).stdout(Stdio::null()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut compose = match self {
            Self::Podman { program } => {
                let settings = root().join("dev/containers");
                let mut compose = command(program);
                compose
                    .arg("--podman-path")
                    .arg(settings.join("podman"))
                    .env("CONTAINERS_CONF", settings.join("containers.conf"));
                compose
            }
            Self::Docker => {
                let mut docker = command("docker");
                docker.arg("compose");
                docker
            }
        };
        compose.args(["--project-name", PROJECT]).args(words);
        compose
    }
}
