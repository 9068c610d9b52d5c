//! `attach FILE --once`: one pass now, printed to the terminal. Without `DATABASE_URL` nothing is
//! recorded, so that a first look needs nothing but the file.

use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::AttachArgs;
use super::watched::Watched;
use crate::context::PassRequest;
use crate::once::mail_and_print;
use crate::passes::Worker;
use crate::report::{Kind, Trigger};

/// Maximum wait for passes of a daemon, which takes the lock repeatedly while something differs.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Runs the pass. Exits with 0 if it sees nothing left to do, 1 if something is, and 2 if a campaign
/// could not be compared. A campaign that is being sold is not exact yet, but needs nobody.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let attached = super::attached(&args)?;
    if let Some(ours) = &attached.ours {
        ours.migrate().await?;
        Watched::check(&ours.db, &attached.file).await?;
    }
    let coupon = attached
        .file
        .coupon_id(args.campaign.as_ref())
        .map_err(anyhow::Error::msg)?;
    match attached.check().await {
        Ok(told) => told
            .iter()
            .for_each(|it| firstcome_shared::complain!("note: {it}")),
        // The pass reports it, unless it concerns a queue: a pass reads queues only if something
        // differs.
        Err(error) => firstcome_shared::complain!("note: the file is not fully checked: {error}"),
    }
    firstcome_shared::complain!(
        "waiting for a pass that runs, then reading; if something differs, again after in_flight"
    );
    let request = PassRequest {
        coupon,
        dry_run: args.dry_run,
        confirm: args.confirm,
        shown_by: args.shown_by,
        patience: PATIENCE,
        ..PassRequest::new(Trigger::Cli)
    };
    let worker = Worker::Attached(Box::new(attached.clone()));
    let run = worker.once(&request, &stop).await?;
    let ours = attached.ours.as_ref();
    let notifier = ours
        .map(|ours| super::notifier(&attached, ours, &args))
        .transpose()?;
    let code = mail_and_print(notifier.as_ref(), &run, args.json, args.full_ids).await?;
    if !args.json && run.all_findings().next().is_some() {
        firstcome_shared::say!("see docs/ATTACH.md; --full-ids prints the ids of users in full");
    }
    let is_compared = run.findings.iter().all(|it| it.kind != Kind::Stalled);
    Ok(if is_compared { code } else { ExitCode::from(2) })
}
