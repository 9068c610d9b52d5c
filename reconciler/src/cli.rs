//! The commands of the program, and its entry point, which is not async because an async body would
//! be compiled again in every crate that awaits it.

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser, Subcommand};
use firstcome_shared::config::{LogArgs, parse};
use firstcome_shared::shutdown;
use tokio::runtime::Runtime;

use crate::args::{DaemonArgs, DaemonHealthArgs, ExplainArgs, OnceArgs};
use crate::attach::args::AttachArgs;
use crate::notify::{NotifyArgs, WebhookArgs};
use crate::{attach, daemon, explain, notify, once};

/// Compares every promise with every row, repairs the differences, and alerts operators.
#[derive(Debug, Parser)]
#[command(name = "firstcome-reconciler", version, about, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs until stopped: scheduled and requested passes, reopening of admission, mails
    Daemon(Box<DaemonArgs>),
    /// Runs one pass now; exits 0 clean or repaired, 1 drift left, 2 could not run
    Once(Box<OnceArgs>),
    /// Compares and repairs the coupon system that a file describes, which need not be Firstcome
    // Settings of flattened groups that have no effect there, or another one.
    #[command(
        mut_arg("reconcile_cron", |arg| arg.help("Passes over all campaigns")),
        mut_arg("deep_cron", |arg| arg.hide(true)),
        mut_arg("api_url", |arg| arg.hide(true)),
        mut_arg("api_public_url", |arg| arg.hide(true))
    )]
    Attach(Box<AttachArgs>),
    /// Sends a mail to everyone in ALERT_TO and explains what was tried
    TestEmail(Box<NotifyArgs>),
    /// Posts an event to each of WEBHOOK_URLS and explains what came back
    TestWebhook(Box<WebhookArgs>),
    /// Prints a user's history: claim, row, repairs, and the current state
    Explain(Box<ExplainArgs>),
    /// Checks whether the daemon of this container runs; exits 0 if it does
    Health(DaemonHealthArgs),
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_of_attach_names_nothing_that_only_our_own_coupons_have() {
        let mut cli = Cli::command();
        let attach = cli.find_subcommand_mut("attach").unwrap();
        let help = attach.render_long_help().to_string();
        for word in ["seal", "drop", "slot", "dead letter"] {
            assert!(!help.contains(word), "{word}: {help}");
        }
    }
}
