//! `firstcome-run`: the whole system, left running, with commands to try. `make run` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use firstcome_rush::ended;
use firstcome_rush::live::step;
use firstcome_rush::system::{System, SystemOptions, stopped};

/// Starts the whole system on servers of its own and leaves it running until Ctrl-C.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// API processes
    #[arg(long, env = "APIS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    apis: u8,
    /// Consumer processes
    #[arg(long, env = "CONSUMERS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    consumers: u8,
    /// When the reconciler looks
    #[arg(long, env = "RECONCILE_CRON", default_value = "*/5 * * * * *")]
    reconcile_cron: String,
    /// Folder for logs, mails and the file `env` with all addresses
    #[arg(long, default_value = "target/run")]
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("firstcome-run", work(Cli::parse()).await)
}

async fn work(cli: Cli) -> Result<ExitCode> {
    let options = SystemOptions {
        apis: cli.apis.into(),
        consumers: cli.consumers.into(),
        reconcile_cron: cli.reconcile_cron,
        mail_folder: Some(cli.folder.join("mails")),
        log_folder: Some(cli.folder.join("logs")),
        usual_ports: true,
    };
    let env_file = cli.folder.join("env");
    let system = tokio::select! {
        system = System::start(&options) => system?,
        signal = stopped() => {
            step(format!("{}: stopped", signal?));
            return Ok(ExitCode::from(130));
        }
    };
    write_env(&system, &env_file)?;
    println!("{}", welcome(&system, &cli.folder)?);
    step(format!("{}: stopping; the data is deleted", stopped().await?));
    let _ = fs::remove_file(&env_file);
    let complaints = system.stop().await;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whoever works with the running system from another terminal reads its addresses here.
fn write_env(system: &System, path: &Path) -> Result<()> {
    let apis: Vec<_> = system.targets()?.iter().map(ToString::to_string).collect();
    let mut lines = system.settings.clone();
    lines.extend([
        ("API_URL", apis[0].clone()),
        ("API_URLS", apis.join(",")),
        ("RECONCILER_URL", system.reconciler()?.target.to_string()),
    ]);
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    fs::write(path, lines.concat()).with_context(|| format!("cannot write {}", path.display()))
}

fn welcome(system: &System, folder: &Path) -> Result<String> {
    let apis: Vec<_> = system.targets()?.iter().map(ToString::to_string).collect();
    let servers: Vec<_> = system.stack.env().iter().map(|(name, value)| format!("  {name:<14} {value}")).collect();
    Ok(include_str!("welcome.txt")
        .replace("{apis}", &apis.join(" "))
        .replace("{api}", &apis[0])
        .replace("{reconciler}", &system.reconciler()?.target.to_string())
        .replace("{token}", &system.ops_token)
        .replace("{folder}", &folder.display().to_string())
        .replace("{servers}", &servers.join("\n")))
}
