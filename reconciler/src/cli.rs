//! The entry point of the program. It is not async because an async body would be compiled again in
//! every crate that awaits it.

use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;
use firstcome_shared::config::parse;
use firstcome_shared::shutdown;
use tokio::runtime::Runtime;

use crate::args::{Cli, Command};
use crate::{attach, daemon, explain, notify, once};

/// Maximum time that a thread blocked in a client library may delay the shutdown.
const THREADS_END_WITHIN: Duration = Duration::from_secs(2);

/// Runs the command.
pub fn main() -> ExitCode {
    let cli: Cli = parse(Cli::command());
    cli.logs.init();
    let done = Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let done = runtime.block_on(run(cli.command));
            runtime.shutdown_timeout(THREADS_END_WITHIN);
            done
        });
    done.unwrap_or_else(|error| {
        firstcome_shared::complain!("firstcome-reconciler: {error:#}");
        ExitCode::from(2)
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    let code = |all_went: bool| ExitCode::from(u8::from(!all_went));
    let say = |line: &str| firstcome_shared::say!("{line}");
    match command {
        Command::Daemon(args) => daemon::run(*args, stop).await.map(|()| ExitCode::SUCCESS),
        Command::Once(args) => Box::pin(once::run(*args, stop)).await,
        Command::Attach(args) => Box::pin(attach::run(*args, stop)).await,
        Command::TestEmail(args) => notify::test_email(&args, say).await.map(code),
        Command::TestWebhook(args) => notify::test_webhook(&args, say).await.map(code),
        Command::Explain(args) => explain::run(*args).await,
        Command::Health(args) => {
            let runs = args.probe.probe(args.listen_addr).await;
            runs.map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::msg)
        }
    }
}
