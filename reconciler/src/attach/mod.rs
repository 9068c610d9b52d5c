//! `firstcome-reconciler attach FILE`: the daemon and the commands around [`firstcome_attach`], for
//! a coupon system that a team already has.

pub mod args;
mod daemon;
mod http;
mod once;
mod watched;

use std::process::ExitCode;
use std::time::Duration;

use firstcome_attach::file::{AttachFile, Mode};
use firstcome_attach::plan::Ours;
use firstcome_attach::{Confirm, Engine, PassOptions};
use tokio_util::sync::CancellationToken;

use args::AttachArgs;

use crate::context::{Ask, Confirmation, PassError, PassRequest};
use crate::notify::Notifier;
use crate::notify::mails::AttachedCampaign;
use crate::notify::wording::shell_word;
use crate::report::Run;

/// Maximum wait for a pass of another process.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Findings that are read with a run.
const FINDINGS: u32 = 10_000;

fn engine(args: &AttachArgs) -> anyhow::Result<Engine> {
    let file = AttachFile::read(&args.file)?;
    let ours = args.database_url.as_ref();
    Engine::new(file, ours, &args.tls, args.store_timeout_ms)
}

/// Creates the notifier for the campaigns of the file. Mails link to the page, if there is one.
fn notifier(file: &AttachFile, ours: &Ours, args: &AttachArgs) -> anyhow::Result<Notifier> {
    let mut notify = args.notify.clone();
    notify.public_url = notify.public_url.filter(|_| args.ops_token.is_some());
    notify.attached_file = Some(shell_word(&args.file.to_string_lossy()));
    for campaign in &file.campaigns {
        let attached = AttachedCampaign {
            name: campaign.name.clone(),
            is_repaired: campaign.mode == Mode::Repair,
        };
        notify.campaigns.insert(campaign.coupon_id(), attached);
    }
    Notifier::new(ours.db.clone(), &notify, &args.webhooks)
}

/// Passes over the file as a request says: from the command line until everything that differs is
/// old enough, and in a daemon once.
pub(crate) async fn pass(
    engine: &Engine,
    request: &PassRequest,
    run: &mut Run,
    stop: &CancellationToken,
) -> Result<(), PassError> {
    let confirm = match &request.confirms {
        Confirmation::Named(names) => names.clone(),
        Confirmation::None | Confirmation::HeldBack(_) => Confirm::default(),
    };
    let options = PassOptions {
        campaign: request.scope.coupon,
        dry_run: request.dry_run,
        is_requested: request.ask.is_awaited(),
        confirm,
    };
    if matches!(request.ask, Ask::Cli { .. }) {
        engine.once(&options, run, stop).await?;
    } else {
        engine.pass(&options, run, stop).await?;
    }
    Ok(())
}

/// Runs the daemon, or one pass.
pub async fn run(mut args: AttachArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    // Mails name the file to people who work in another folder.
    args.file = std::path::absolute(&args.file)?;
    if args.once {
        return once::run(args, stop).await;
    }
    daemon::run(args, stop).await.map(|()| ExitCode::SUCCESS)
}
