//! `firstcome-run`: the whole system, left running, with commands to try. `make run` runs it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use firstcome_harness::Service;
use firstcome_load::ended;
use firstcome_load::local::system::{Local, stopped};
use firstcome_load::terminal::step;

/// Starts the whole system on private servers and leaves it running until Ctrl-C.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Cron schedule of passes
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
    let _lock = only_one(&cli.folder)?;
    let system = tokio::select! {
        system = Local::start(&cli.reconcile_cron, Some(&cli.folder)) => system?,
        signal = stopped() => {
            step(format!("{}: stopped", signal?));
            return Ok(ExitCode::from(130));
        }
    };
    let env_file = cli.folder.join("env");
    fs::write(&env_file, env(&system)?)
        .with_context(|| format!("cannot write {}", env_file.display()))?;
    println!("{}", welcome(&system, &cli.folder)?);
    step(format!(
        "{}: stopping; the data is deleted",
        stopped().await?
    ));
    let _ = fs::remove_file(&env_file);
    let complaints = system.stop().await;
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// Locks the folder for this process, and deletes the logs and mails of an earlier run.
fn only_one(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = File::create(folder.join("lock"))?;
    ensure!(
        lock.try_lock().is_ok(),
        "make run is running already: end it with Ctrl-C in its terminal, or take another --folder"
    );
    for old in ["mails", "logs"].map(|name| folder.join(name)) {
        match fs::remove_dir_all(&old) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", old.display()));
            }
            _ => {}
        }
    }
    Ok(lock)
}

/// Returns the addresses for commands in another terminal, as a shell reads them.
fn env(system: &Local) -> Result<String> {
    let pages = system.pages.as_ref().context("no pages")?;
    let programs = programs()?.display().to_string();
    let urls = system.apis.each_ref().map(|api| api.url.clone());
    let mut lines = system.installation.settings();
    let addresses = [
        ("API_URL", urls[0].clone()),
        ("API_URLS", urls.join(",")),
        ("RECONCILER_URL", system.reconciler.url.clone()),
        ("PAGES_URL", pages.service.url.clone()),
        ("PAGE_TOKEN", pages.token.clone()),
        ("PROGRAMS", programs.clone()),
    ];
    lines.extend(addresses.map(|(name, value)| (name.to_owned(), value)));
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name}='{value}'\n"));
    // The commands in mails and in OPERATIONS name programs without their folder.
    Ok(format!(
        "{}PATH='{programs}':$PATH\n",
        lines.collect::<String>()
    ))
}

/// Returns the folder of this program, which also has the product's programs.
fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("a program without a folder")?;
    Ok(std::path::absolute(folder)?)
}

fn welcome(system: &Local, folder: &Path) -> Result<String> {
    let pages = system.pages.as_ref().context("no pages")?;
    let urls = |services: &[Service]| {
        let urls: Vec<_> = services
            .iter()
            .map(|service| service.url.as_str())
            .collect();
        urls.join(" ")
    };
    let servers = system.installation.servers.env();
    let servers = servers.map(|(name, value)| format!("  {name:<14} {value}"));
    Ok(include_str!("welcome.txt")
        .replace("{apis}", &urls(&system.apis))
        .replace("{api}", &system.apis[0].url)
        .replace("{consumers}", &urls(&system.consumers))
        .replace("{reconciler}", &system.reconciler.url)
        .replace("{pages}", &pages.service.url)
        .replace("{page_token}", &pages.token)
        .replace("{token}", &system.installation.setting("OPS_TOKEN"))
        .replace("{folder}", &folder.display().to_string())
        .replace("{servers}", &servers.join("\n")))
}
