//! `firstcome-reconciler attach FILE`: the daemon and the commands around [`firstcome_attach`], for
//! a coupon system that a team already has.

pub mod args;
mod daemon;
mod http;
mod once;
mod watched;

use std::process::ExitCode;

use firstcome_attach::config::Mode;
use firstcome_attach::{Attached, Ours};
use tokio_util::sync::CancellationToken;

use args::AttachArgs;

use crate::notify::Notifier;
use crate::notify::mails::AttachedCampaign;
use crate::notify::wording::shell_word;

fn attached(args: &AttachArgs) -> anyhow::Result<Attached> {
    let ours = args.database_url.as_ref();
    Attached::new(&args.file, ours, &args.tls, args.store_timeout_ms)
}

/// Creates the notifier for the campaigns of the file. Mails link to the page, if there is one.
fn notifier(attached: &Attached, ours: &Ours, args: &AttachArgs) -> anyhow::Result<Notifier> {
    let mut notify = args.notify.clone();
    notify.public_url = notify.public_url.filter(|_| args.ops_token.is_some());
    notify.attached_file = Some(shell_word(&args.file.to_string_lossy()));
    let campaigns = attached.file.campaigns.iter().map(|campaign| {
        let named = AttachedCampaign {
            name: campaign.name.clone(),
            is_repaired: campaign.mode == Mode::Repair,
        };
        (campaign.coupon_id(), named)
    });
    notify.campaigns = campaigns.collect();
    Notifier::new(ours.db.clone(), &notify, &args.webhooks)
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
