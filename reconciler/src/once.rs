//! `firstcome-reconciler once`: one pass now, told on the terminal.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use comfy_table::{Table, presets};
use firstcome_shared::domain::{CouponId, DropId, UserId};
use tokio_util::sync::CancellationToken;

use crate::args::OnceArgs;
use crate::engine::{Progress, Request};
use crate::notify::Notifier;
use crate::pass::{PassError, new_run_id};
use crate::report::{Run, Status, Trigger};
use crate::runner::tell;

/// Most findings shown of one drop; `--json` and the endpoint show all.
const SHOWN: usize = 50;

/// Longest wait for the mail server; what is not sent by then stays in the outbox.
const MAIL_LIMIT: Duration = Duration::from_secs(20);

/// Runs the pass; 0 clean or repaired, 1 drift left, 2 could not run.
///
/// # Errors
/// When the settings can't be worked with.
pub async fn run(args: OnceArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let engine = args.engine.engine()?;
    crate::start::check(&engine, &args.engine, &stop).await?;
    let notifier = Notifier::new(engine.db.clone(), &args.notify)?;
    let request = Request {
        coupon: args.coupon.map(CouponId),
        drop: args.drop.map(DropId),
        dry_run: args.dry_run,
        deep: args.deep,
        confirm: args.confirm,
        patience: Duration::from_secs(args.wait_seconds),
        ..Request::new(Trigger::Cli)
    };
    let watch = tokio::spawn(show_progress(engine.progress.clone()));
    let ended = engine.pass(&request, &new_run_id(), &stop).await;
    watch.abort();
    let run = match ended {
        Ok(run) => run,
        Err(error @ PassError::Busy) => anyhow::bail!("{error}; it did not end within {} s", args.wait_seconds),
        Err(error) => return Err(error.into()),
    };
    tell(&notifier, &run).await;
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

/// Says on standard error how far a long pass is, so that whoever waits sees that it moves.
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
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header([
        "coupon",
        "drop",
        "quantity",
        "count",
        "users",
        "rows",
        "failed",
        "in flight",
        "exact",
        "findings",
    ]);
    for drop in &run.drops {
        let change =
            |before: u64, after: u64| if before == after { after.to_string() } else { format!("{before} → {after}") };
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        table.add_row([
            format!("{} {}", drop.coupon_id, drop.coupon_name),
            drop.drop_id.to_string(),
            drop.quantity.to_string(),
            change(count(drop.before.count), count(drop.after.count)),
            change(drop.before.users, drop.after.users),
            change(drop.before.rows, drop.after.rows),
            change(drop.before.failed_claims, drop.after.failed_claims),
            change(drop.before.in_flight, drop.after.in_flight),
            if drop.exact { "yes".into() } else { "no".into() },
            drop.findings.len().to_string(),
        ]);
    }
    println!("{table}");
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
            finding.action
        );
    }
    let total = run.all_findings().count();
    if total > SHOWN {
        println!("          … and {} more; `--json` shows all", total - SHOWN);
    }
    let (users, rows) = run.drops.iter().fold((0, 0), |(u, r), d| (u + d.examined.users, r + d.examined.rows));
    println!(
        "{}: {} drops, {users} people and {rows} rows examined, {total} findings",
        run.status.as_str(),
        run.drops.len()
    );
    if let Some(error) = &run.error {
        println!("failed: {error}");
    }
}
