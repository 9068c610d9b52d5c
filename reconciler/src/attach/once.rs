//! `attach FILE --once`: one pass now, printed to the terminal. Without `DATABASE_URL` nothing is
//! recorded, so that a first look needs nothing but the file.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio_util::sync::CancellationToken;

use super::args::AttachArgs;
use super::{AttachError, Attached};
use crate::context::PassRequest;
use crate::notify::Notifier;
use crate::once::tell;
use crate::passes::Worker;
use crate::report::{Kind, Trigger};

/// Runs the pass. Exits with 0 if everything is exact or repaired, 1 if something is left, and 2 if
/// a campaign could not be compared.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let attached = Attached::new(&args)?;
    if let Some(ours) = &attached.ours {
        ours.migrate().await?;
    }
    let named = args.campaign.as_deref();
    let campaign = named.map(|name| attached.file.campaign(name));
    ensure!(
        !matches!(campaign, Some(None)),
        "the file has no campaign {:?}",
        args.campaign
    );
    let coupon = campaign.flatten().map(super::config::Campaign::coupon_id);
    ensure!(
        !args.confirm || coupon.is_some(),
        "--confirm needs --campaign: what is held back is confirmed campaign by campaign"
    );
    match attached.check().await {
        Ok(told) => told.iter().for_each(|it| eprintln!("note: {it}")),
        Err(error @ AttachError::Misfit(_)) => bail!("{}: {error}", args.file.display()),
        // The pass reports it.
        Err(error) => tracing::debug!(%error, "the file is not checked"),
    }
    eprintln!("reading; if something differs, a second look follows after in_flight");
    let request = PassRequest {
        coupon,
        dry_run: args.dry_run,
        confirm: args.confirm,
        patience: Duration::from_secs(60),
        ..PassRequest::new(Trigger::Cli)
    };
    let worker = Worker::Attached(Box::new(attached.clone()));
    let run = worker.once(&request, &stop).await?;
    let name = args.file.display().to_string();
    let notifier = |db| {
        let notifier = Notifier::new(db, &args.notify, &args.webhooks);
        notifier.map(|it| it.for_attached(name))
    };
    let notifier = attached.ours.map(|ours| notifier(ours.db)).transpose()?;
    let code = tell(notifier.as_ref(), &run, args.json, args.full_ids).await?;
    if !args.json && run.all_findings().next().is_some() {
        println!("see docs/ATTACH.md; --full-ids prints the ids of users in full");
    }
    let is_compared = run.findings.iter().all(|it| it.kind != Kind::Stalled);
    Ok(if is_compared { code } else { ExitCode::from(2) })
}
