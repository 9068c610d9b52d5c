//! The reconciler's command line.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use firstcome_reconciler::args::{Cli, Command};
use firstcome_shared::shutdown;
use tokio::runtime::Runtime;

/// How long a thread that a client library holds still may hold up the end of the process.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.logs.init();
    let done = Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(run(cli.command));
        runtime.shutdown_timeout(THREADS_END_WITHIN);
        done
    });
    done.unwrap_or_else(|error| {
        eprintln!("firstcome-reconciler: {error:#}");
        ExitCode::from(2)
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    match command {
        Command::Daemon(args) => firstcome_reconciler::daemon::run(*args, stop).await.map(|()| ExitCode::SUCCESS),
        Command::Once(args) => firstcome_reconciler::once::run(*args, stop).await,
        Command::TestEmail(args) => {
            let all_went = firstcome_reconciler::notify::test_email(&args, |line| println!("{line}")).await?;
            Ok(if all_went { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Explain(args) => firstcome_reconciler::explain::run(*args, stop).await,
    }
}
