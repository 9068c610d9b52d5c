//! `firstcome-run`: the whole system, left running, with commands to try. `make run` runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::FalseyValueParser;
use firstcome_load::ended;
use firstcome_load::local::folder::only_one;
use firstcome_load::local::system::{System, SystemOptions, stopped};
use firstcome_load::terminal::step;
use firstcome_stack::{PrometheusOptions, PrometheusServer};

/// Starts the whole system on private servers and leaves it running until Ctrl-C.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Number of API processes
    #[arg(long, env = "APIS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    apis: u8,
    /// Number of consumer processes
    #[arg(long, env = "CONSUMERS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    consumers: u8,
    /// Cron schedule of passes
    #[arg(long, env = "RECONCILE_CRON", default_value = "*/5 * * * * *")]
    reconcile_cron: String,
    /// Also start a Prometheus with the rules of deploy/prometheus
    #[arg(long, env = "WATCH", value_parser = FalseyValueParser::new())]
    watch: bool,
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
        pages: true,
    };
    let _lock = only_one(&cli.folder)?;
    let env_file = cli.folder.join("env");
    let system = tokio::select! {
        system = System::start(&options) => system?,
        signal = stopped() => {
            step(format!("{}: stopped", signal?));
            return Ok(ExitCode::from(130));
        }
    };
    let prometheus = if cli.watch {
        Some(watch(&system, &cli.folder).await?)
    } else {
        None
    };
    write_env(&system, &env_file)?;
    println!("{}", welcome(&system, &cli.folder)?);
    if let Some(prometheus) = &prometheus {
        let url = prometheus.url();
        println!(
            "Prometheus scrapes all of it: {url}/graph, {url}/alerts (dashboard for Grafana: deploy/grafana)\n"
        );
    }
    step(format!(
        "{}: stopping; the data is deleted",
        stopped().await?
    ));
    let _ = fs::remove_file(&env_file);
    let complaints = system.stop().await;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts a Prometheus that scrapes every process, with the rules of deploy/prometheus.
async fn watch(system: &System, folder: &Path) -> Result<PrometheusServer> {
    step("starting Prometheus");
    let rules = folder.join("rules.yml");
    fs::write(
        &rules,
        include_str!("../../../../deploy/prometheus/rules.yml"),
    )?;
    PrometheusServer::start(PrometheusOptions {
        jobs: system.scrape_jobs()?,
        rules: vec![rules],
    })
    .await
}

/// Writes the addresses for commands in another terminal.
fn write_env(system: &System, path: &Path) -> Result<()> {
    let apis: Vec<_> = system.targets()?.iter().map(ToString::to_string).collect();
    let pages = system.pages.as_ref().context("no pages")?;
    let mut lines: Vec<_> = system.installation.settings.clone().into_iter().collect();
    lines.extend([
        ("API_URL", apis[0].clone()),
        ("API_URLS", apis.join(",")),
        ("RECONCILER_URL", system.reconciler()?.target.to_string()),
        ("PAGES_URL", pages.target()?.to_string()),
        ("PAGE_TOKEN", pages.token.clone()),
        ("PROGRAMS", programs()?.display().to_string()),
    ]);
    let mut lines: Vec<_> = lines
        .iter()
        .map(|(name, value)| format!("{name}='{value}'\n"))
        .collect();
    // The commands in mails and in OPERATIONS name programs without their folder.
    lines.push(format!(
        "PATH='{}':$PATH\n",
        std::path::absolute(programs()?)?.display()
    ));
    fs::write(path, lines.concat()).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the absolute folder of this program, which also has the product's programs.
fn programs() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program.parent().context("a program without a folder")?;
    Ok(folder
        .strip_prefix(std::env::current_dir()?)
        .unwrap_or(folder)
        .to_owned())
}

fn welcome(system: &System, folder: &Path) -> Result<String> {
    let apis: Vec<_> = system.targets()?.iter().map(ToString::to_string).collect();
    let consumers = system
        .consumers
        .iter()
        .map(|consumer| Ok(consumer.target()?.to_string()));
    let consumers = consumers.collect::<Result<Vec<_>>>()?;
    let pages = system.pages.as_ref().context("no pages")?;
    let servers: Vec<_> = system
        .servers
        .stack
        .env()
        .iter()
        .map(|(name, value)| format!("  {name:<14} {value}"))
        .collect();
    Ok(include_str!("welcome.txt")
        .replace("{apis}", &apis.join(" "))
        .replace("{api}", &apis[0])
        .replace("{consumers}", &consumers.join(" "))
        .replace("{reconciler}", &system.reconciler()?.target.to_string())
        .replace("{pages}", &pages.target()?.to_string())
        .replace("{page_token}", &pages.token)
        .replace("{token}", &system.installation.ops_token)
        .replace("{folder}", &folder.display().to_string())
        .replace("{servers}", &servers.join("\n")))
}
