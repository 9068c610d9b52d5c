//! `firstcome-reconciler once`: one pass now, its result on the terminal.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId, UserId};
use tokio_util::sync::CancellationToken;

use crate::args::OnceArgs;
use crate::daemon::mail;
use crate::notify::Notifier;
use crate::pass::memory::Progress;
use crate::pass::{PassError, Reconciler, Request, new_run_id};
use crate::report::{DropReport, Run, Status, Trigger};

/// Most findings shown of one drop; `--json` and the endpoint show all.
const SHOWN: usize = 50;

/// Longest wait for the mail server; what is not sent by then stays in the outbox.
const MAIL_LIMIT: Duration = Duration::from_secs(20);

/// Runs the pass; 0 clean or repaired, 1 drift left, 2 could not run.
pub async fn run(args: OnceArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !args.confirm || args.coupon.is_some() || args.drop.is_some(),
        "--confirm needs --coupon or --drop: what is held back is confirmed coupon by coupon"
    );
    let stores = args.reconcile.stores()?;
    crate::stores::check(&stores, &args.reconcile, &stop).await?;
    let notifier = Notifier::new(stores.db.clone(), &args.notify, &args.webhooks)?;
    if !args.dry_run {
        notifier.announce();
    }
    let mut reconciler = Reconciler::new(stores, args.reconcile.settings());
    let request = Request {
        coupon: args.coupon.map(CouponId),
        drop: args.drop.map(DropId),
        dry_run: args.dry_run,
        deep: args.deep,
        confirm: args.confirm,
        patience: Duration::from_secs(args.wait_seconds),
        ..Request::new(Trigger::Cli)
    };
    let watch = tokio::spawn(show_progress(reconciler.memory.progress.clone()));
    let ended = reconciler.pass(&request, &new_run_id(), &stop).await;
    watch.abort();
    let run = match ended {
        Ok(run) => run,
        Err(error @ PassError::Busy) => anyhow::bail!("{error}; it did not end within {} s", args.wait_seconds),
        Err(error) => return Err(error.into()),
    };
    mail(&notifier, &run).await;
    if let Err(error) = notifier.flush(MAIL_LIMIT).await {
        tracing::warn!(error = format!("{error:#}"), "mails are left in the outbox");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&run)?);
    } else {
        print(&run);
    }
    Ok(ExitCode::from(match run.status {
        Status::Clean | Status::Repaired => 0,
        Status::Drift | Status::Braked => 1,
        Status::Failed | Status::Running => 2,
    }))
}

/// Says on standard error how far a long pass is.
async fn show_progress(progress: Arc<Progress>) {
    let mut every = tokio::time::interval(Duration::from_secs(2));
    every.tick().await;
    loop {
        every.tick().await;
        let (done, drops) = (progress.drops_done.load(Relaxed), progress.drops.load(Relaxed));
        let compared = progress.compared.load(Relaxed);
        eprintln!("… {done} of {drops} drops, {compared} people and rows compared");
    }
}

fn print(run: &Run) {
    let is_news = |drop: &&DropReport| !drop.exact || !drop.findings.is_empty() || drop.before != drop.after;
    for drop in run.drops.iter().filter(is_news) {
        println!("{}", lines_of(drop));
    }
    let unchanged = run.drops.iter().filter(|drop| !is_news(drop)).count() as u64 + run.unlisted.drops;
    if unchanged > 0 {
        println!("{unchanged} {} exact, and nothing was found", if unchanged == 1 { "drop is" } else { "drops are" });
    }
    for finding in run.all_findings().take(SHOWN) {
        let person =
            finding.user_id.clone().map(UserId::from_store).map(|u| format!(" {}", u.masked())).unwrap_or_default();
        let slot = finding.slot.map(|s| format!(" slot {s}")).unwrap_or_default();
        let place = finding.drop_id.map(|d| format!("drop {d}")).unwrap_or_default();
        println!(
            "{:>8}  {} {place}{slot}{person}: {} ({})",
            finding.result.as_str(),
            finding.kind.as_str(),
            finding.detail,
            finding.action.as_str()
        );
    }
    let total = run.all_findings().count();
    if total > SHOWN {
        println!("          … and {} more; `--json` shows all", total - SHOWN);
    }
    let (drops, examined) = run.examined();
    println!(
        "{}: {drops} drops, {} people and {} rows examined, {total} findings",
        run.status.as_str(),
        examined.users,
        examined.rows
    );
    if let Some(error) = &run.error {
        println!("failed: {error}");
    }
}

/// A drop in two lines that fit a terminal: whether it is exact, and its numbers, before and after
/// where they differ.
fn lines_of(drop: &DropReport) -> String {
    let (before, after) = (&drop.before, &drop.after);
    let number = |name: &str, before: String, after: String| {
        if before == after { format!("{name} {after}") } else { format!("{name} {before} → {after}") }
    };
    let numbers = [
        ("rows", before.rows.to_string(), after.rows.to_string()),
        ("in Redis", before.users.to_string(), after.users.to_string()),
        ("count", before.count.to_string(), after.count.to_string()),
        ("failed claims", before.failed_claims.to_string(), after.failed_claims.to_string()),
        ("in flight", before.in_flight.to_string(), after.in_flight.to_string()),
    ]
    .map(|(name, before, after)| number(name, before, after));
    let exact = if drop.exact { "exact" } else { "NOT exact" };
    let broken = match after.broken_promises {
        0 => String::new(),
        1 => ", 1 broken promise".to_owned(),
        many => format!(", {many} broken promises"),
    };
    format!(
        "{} · coupon {}, drop {}: {} of {} issued, {exact}{broken}\n    {}",
        drop.coupon_name,
        drop.coupon_id,
        drop.drop_id,
        after.rows,
        drop.quantity,
        numbers.join(" · ")
    )
}
