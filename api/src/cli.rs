//! The command line.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use firstcome_shared::config::{LogArgs, listen_address, parse};
use firstcome_shared::http::probe::ProbeArgs;
use firstcome_shared::trace;
use tokio::runtime::Builder;

use crate::consume::{self, ConsumeArgs};
use crate::coupon::{self, CouponArgs};
use crate::migrate::{self, MigrateArgs};
use crate::serve::{self, ServeArgs};

/// Gives out a limited number of coupons, first come, first served. Most settings can be given as
/// a flag or as an environment variable; the help of each command lists both.
#[derive(Debug, Parser)]
#[command(name = "firstcome-api", version)]
pub struct ApiCli {
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(subcommand)]
    command: ApiCommand,
}

#[derive(Debug, Subcommand)]
enum ApiCommand {
    /// Serve HTTP: admit users, create and change coupons
    Serve(Box<ServeArgs>),
    /// Turn admissions from Kafka into rows in MySQL; any number may run concurrently
    Consume(Box<ConsumeArgs>),
    /// Create the tables and the topic, if they are missing
    Migrate(Box<MigrateArgs>),
    /// Show and change coupons, through the API
    Coupon(Box<CouponArgs>),
    /// Check that the process of this container runs; exits 0 if it does
    Health(HealthArgs),
}

#[derive(Debug, Args)]
struct HealthArgs {
    #[command(flatten)]
    probe: ProbeArgs,
    /// Address at which the process listens; a consumer's is usually 127.0.0.1:8082
    #[arg(long, env = "LISTEN_ADDR", default_value = serve::LISTEN_ADDR, value_parser = listen_address)]
    listen_addr: SocketAddr,
}

/// Maximum wait for blocked threads when the process ends.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs the command. Not async, because an async body would be compiled again in every program that
/// awaits it.
pub fn main() -> ExitCode {
    // Huge pages of 2 MB would mostly stay unused. If the call fails, the process only needs more
    // memory.
    let small_pages = rustix::thread::disable_transparent_huge_pages(true);
    let cli: ApiCli = parse(ApiCli::command());
    cli.logs.init();
    if let Err(error) = small_pages {
        tracing::warn!(
            %error,
            "huge pages could not be switched off: this process will need more memory"
        );
    }
    let runtime = Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let ended = runtime.block_on(cli.run());
        trace::stop();
        runtime.shutdown_timeout(THREADS_END_WITHIN);
        ended
    });
    match ended {
        Ok(code) => code,
        Err(error) => {
            firstcome_shared::complain!("firstcome-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl ApiCli {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let shutdown = firstcome_shared::shutdown::on_signal()?;
        match self.command {
            ApiCommand::Serve(args) => {
                trace::start_as("firstcome-api")?;
                serve::run(*args, shutdown).await?;
            }
            ApiCommand::Consume(args) => consume::run(*args, shutdown).await?,
            ApiCommand::Migrate(args) => migrate::run(*args, shutdown).await?,
            ApiCommand::Coupon(args) => return Ok(coupon::run(*args).await),
            ApiCommand::Health(args) => {
                let asked = args.probe.probe(args.listen_addr).await;
                asked.map_err(anyhow::Error::msg)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
