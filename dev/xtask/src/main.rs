//! Tasks for development and CI. `cargo xtask help` lists them. Most settings come from the
//! environment, where `make WORD NAME=value` puts them.

mod attack;
mod containers;
mod helm;
mod histories;
mod lint;
mod mutants;
mod programs;
mod shell;
mod slowest;
mod suite;

use std::env;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::shell::Failed;

/// Developer and CI tasks
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Run the demo on real servers: a rush, faults, and the proof (QUANTITY=100 PEOPLE=10000)
    Demo,
    /// Let a rush break coupon systems of others, and the attached reconciler repair them
    AttachDemo,
    /// Run the whole system until Ctrl-C (PROFILE=release for a fast one)
    Run,
    /// Run the tests of every change on real servers, and fault schedules; or `cargo test ARGS`
    Test {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all checks that do not run the product
    Lint {
        #[command(subcommand)]
        part: Option<lint::Part>,
    },
    /// Run the tests of a release: single faults, a browser, many rows
    Faults,
    /// Run seeded fault schedules, each judged (SEEDS=20 FIRST=1 WORKERS=2 FAULT=clock;
    /// REPLAY=seed or file)
    Chaos,
    /// Compare Firstcome with other designs and its own limits (REQUESTS=100000 QUANTITY=100
    /// CONNECTIONS=64; --quick)
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the programs and fetch the servers that tests need
    Setup,
    /// Kill passes and senders at every crash point, repeatedly, on real servers (CYCLES=100)
    Crashes,
    /// Run schemathesis against both services, with all its checks (CASES=50 per operation, SEED=1,
    /// ONLY=set)
    Attack {
        #[command(subcommand)]
        part: Option<attack::Part>,
    },
    /// Check histories for linearizability with porcupine: files, or those of the last fault
    /// schedules
    Histories { files: Vec<std::path::PathBuf> },
    /// Plant faults in the rules and the scripts, each of which a test must catch (ONLY=words;
    /// DONE=output of a stopped run)
    Mutants {
        #[command(subcommand)]
        part: Option<mutants::Part>,
    },
    /// Check the Helm chart with helm and the Kubernetes API schemas, and docker-compose.yml
    Helm {
        #[command(subcommand)]
        part: helm::Part,
    },
    /// Run docker-compose.yml with its demos, then through an outage and a restart, until it is exact
    Containers {
        #[arg(long, value_enum, default_value = "podman")]
        engine: containers::Engine,
        /// Put the programs that `cargo xtask setup` has built into the image, instead of building a
        /// release, and leave out the demos
        #[arg(long)]
        prebuilt: bool,
    },
}

fn main() -> ExitCode {
    let done = env::set_current_dir(shell::root())
        .map_err(Into::into)
        .and_then(|()| shell::install_hooks())
        .and_then(|()| run(Cli::parse().job));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("[xtask] {error:#}");
            let code = error
                .downcast_ref::<Failed>()
                .map_or(1, |failed| failed.code);
            ExitCode::from(code)
        }
    }
}

fn run(job: Job) -> Result<()> {
    match job {
        Job::Demo => programs::become_program("firstcome-demo", &[]),
        Job::AttachDemo => programs::become_program("firstcome-demo", &["--attach"]),
        Job::Run => programs::become_program("firstcome-run", &[]),
        Job::Test { args } => suite::test(&args),
        Job::Lint { part } => lint::run(part.as_ref()),
        Job::Faults => suite::faults(),
        Job::Chaos => programs::chaos(),
        Job::Bench { args } => programs::bench(&args),
        Job::Setup => programs::setup(),
        Job::Crashes => suite::crashes(),
        Job::Attack { part } => attack::attack(part),
        Job::Histories { files } => histories::check(files),
        Job::Mutants { part } => mutants::run(part),
        Job::Helm { part } => helm::run(part),
        Job::Containers { engine, prebuilt } => containers::run(engine, prebuilt),
    }
}
