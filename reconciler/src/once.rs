//! `firstcome-reconciler once`: runs one pass now, and prints its result to the terminal.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::tuning::Tuning;
use tokio_util::sync::CancellationToken;

use crate::args::OnceArgs;
use crate::context::{Memory, PassError, PassRequest};
use crate::jobs;
use crate::notify::Notifier;
use crate::notify::wording::{LONGEST, count, line, person, plainly, words};
use crate::passes::mail;
use crate::report::{ActionKind, DropReport, Finding, Numbers, Outcome, Run, Status, Trigger};
use crate::run::{Reconciler, UrgentLane, new_run_id};
use crate::terminal::{hanging, width};

/// Maximum number of findings shown for one drop. `--json` and the API return all of them.
const SHOWN: usize = 50;

/// Maximum wait for the mail server. Unsent mails stay in the outbox.
const MAIL_LIMIT: Duration = Duration::from_secs(20);

/// Maximum wait for a store, in seconds. Short, because an operator waits at the terminal.
const STARTUP_WAIT: u64 = 5;

/// Runs the pass. Exits with 0 if clean or repaired, 1 if drift is left, and 2 if the pass could
/// not run.
pub async fn run(args: OnceArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !args.confirm || args.coupon.is_some() || args.drop.is_some(),
        "--confirm needs --coupon or --drop: what is held back is confirmed coupon by coupon"
    );
    let stores = args.reconcile.stores.handles()?;
    crate::stores::check(
        &stores,
        Duration::from_secs(Tuning::StartupWaitSeconds.or(STARTUP_WAIT)),
        &stop,
    )
    .await
    .map_err(|(_, error)| error)?;
    let notifier = Notifier::new(stores.db.clone(), &args.notify, &args.webhooks)?;
    if !args.dry_run {
        notifier.announce();
    }
    let settings = args.reconcile.settings();
    let reconciler = Reconciler::new(stores.clone(), settings.clone(), UrgentLane::Here);
    if !args.dry_run {
        jobs::all(&stores, &settings, &reconciler.notes, args.deep).await;
    }
    let request = PassRequest {
        coupon: args.coupon.map(CouponId),
        drop: args.drop.map(DropId),
        dry_run: args.dry_run,
        deep: args.deep,
        confirm: args.confirm,
        patience: Duration::from_secs(args.wait_seconds),
        ..PassRequest::new(Trigger::Cli)
    };
    let watch = tokio::spawn(show_progress(reconciler.memory.clone()));
    let ended = reconciler.pass(&request, &new_run_id(), &stop).await;
    watch.abort();
    let run = match ended {
        Ok(run) => run,
        Err(error @ PassError::Busy) => {
            anyhow::bail!("{error}; it did not end within {} s", args.wait_seconds)
        }
        Err(error) => return Err(error.into()),
    };
    mail(&notifier, &run).await;
    if let Err(error) = notifier.flush(MAIL_LIMIT).await {
        tracing::warn!(error = format!("{error:#}"), "mails are left in the outbox");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&run)?);
    } else {
        print(&run, args.full_ids);
    }
    Ok(ExitCode::from(match run.status {
        Status::Clean | Status::Repaired => 0,
        Status::Drift | Status::Braked => 1,
        Status::Failed | Status::Running => 2,
    }))
}

/// Prints the progress of a long pass to standard error.
async fn show_progress(memory: Arc<Memory>) {
    let progress = &memory.progress;
    let mut every = tokio::time::interval(Duration::from_secs(2));
    every.tick().await;
    loop {
        every.tick().await;
        let done = progress.drops_done.load(Relaxed);
        let drops = progress.drops.load(Relaxed);
        let compared = progress.compared.load(Relaxed);
        eprintln!("… {done} of {drops} drops, {compared} people and rows compared");
    }
}

fn print(run: &Run, full_ids: bool) {
    let width = width();
    let is_news =
        |drop: &&DropReport| !drop.exact || !drop.findings.is_empty() || drop.before != drop.after;
    for drop in run.drops.iter().filter(is_news) {
        let (drop, numbers) = lines_of(drop);
        println!(
            "{}\n{}",
            hanging("", width, &drop),
            hanging("    ", width, &numbers)
        );
    }
    let unchanged =
        run.drops.iter().filter(|drop| !is_news(drop)).count() as u64 + run.unlisted.drops;
    if unchanged > 0 {
        let drops = count(unchanged, "drop is", "drops are");
        println!("{drops} exact, and nothing was found");
    }
    for finding in run.all_findings().take(SHOWN) {
        let text = text_of(finding, full_ids);
        println!(
            "{}",
            hanging(&format!("{:>12}  ", outcome(finding)), width, &text)
        );
    }
    let total = run.all_findings().count();
    if total > SHOWN {
        println!(
            "{:>12}  … and {} more; `--json` shows all",
            "",
            total - SHOWN
        );
    }
    let (drops, examined) = run.examined();
    println!(
        "{}: {}, {} and {} examined, {}",
        run.status.as_str(),
        count(drops, "drop", "drops"),
        count(examined.users, "person", "people"),
        count(examined.rows, "row", "rows"),
        count(total, "finding", "findings")
    );
    if let Some(error) = &run.error {
        println!(
            "{}",
            hanging("failed: ", width, &plainly(run.cause(), error))
        );
    }
    let sections = sections(run);
    if !sections.is_empty() {
        let links: Vec<_> = sections
            .iter()
            .map(|section| format!("docs/OPERATIONS.md#{section}"))
            .collect();
        println!("{}", hanging("see ", width, &links.join(" ")));
    }
}

/// Describes the outcome of a finding.
fn outcome(finding: &Finding) -> &'static str {
    match finding.result {
        Outcome::Applied | Outcome::Planned | Outcome::Failed => finding.result.as_str(),
        Outcome::Skipped if finding.needs_person => "left for you",
        Outcome::Skipped if finding.action == ActionKind::Report => "reported",
        Outcome::Skipped => "not needed",
    }
}

/// Describes a finding in a sentence.
fn text_of(finding: &Finding, full_ids: bool) -> String {
    let id = |user: &str| {
        if full_ids {
            user.to_owned()
        } else {
            person(user)
        }
    };
    let text = if full_ids {
        finding.detail.clone()
    } else {
        line(&finding.detail, LONGEST)
    };
    let drop = finding
        .drop_id
        .map(|drop| format!(", drop {drop}"))
        .unwrap_or_default();
    let slot = finding
        .slot
        .map(|slot| format!(", slot {slot}"))
        .unwrap_or_default();
    let user = finding
        .user_id
        .as_deref()
        .map(|user| format!(", {}", id(user)))
        .unwrap_or_default();
    let repair = match (finding.action, finding.result) {
        (ActionKind::Report, _) => String::new(),
        (action, Outcome::Applied) => format!(" ({})", words(action).done),
        (action, _) => format!(" (repair: {})", words(action).to_do),
    };
    format!(
        "{}{drop}{slot}{user}: {text}{repair}",
        finding.kind.as_str()
    )
}

/// Returns the sections of docs/OPERATIONS.md that describe the required actions.
fn sections(run: &Run) -> BTreeSet<&'static str> {
    let left = run
        .all_findings()
        .filter(|finding| finding.needs_person || finding.result == Outcome::Failed);
    let mut sections: BTreeSet<_> = left.map(|finding| finding.kind.as_str()).collect();
    sections.extend((run.status == Status::Braked).then_some("braked"));
    sections.extend((run.status == Status::Failed).then_some("run_failed"));
    let is_broken = |drop: &DropReport| drop.after.broken_promises > 0;
    sections.extend(run.drops.iter().any(is_broken).then_some("broken_promise"));
    sections
}

/// Describes a drop in two lines: whether it is exact, and its numbers, before and after if they
/// differ.
fn lines_of(drop: &DropReport) -> (String, String) {
    let after = &drop.after;
    let numbers = |numbers: &Numbers| {
        [
            ("rows", numbers.rows.to_string()),
            ("in Redis", numbers.users.to_string()),
            ("count", numbers.count.to_string()),
            ("failed claims", numbers.failed_claims.to_string()),
            ("in flight", numbers.in_flight.to_string()),
        ]
    };
    let numbers: Vec<String> = numbers(&drop.before)
        .into_iter()
        .zip(numbers(after))
        .map(|((name, before), (_, after))| {
            if before == after {
                format!("{name} {after}")
            } else {
                format!("{name} {before} → {after}")
            }
        })
        .collect();
    let exact = if drop.exact {
        drop.exactness()
    } else {
        "NOT exact".to_owned()
    };
    let broken = match after.broken_promises {
        0 => String::new(),
        1 => ", 1 broken promise".to_owned(),
        many => format!(", {many} broken promises"),
    };
    let drop = format!(
        "{} · coupon {}, drop {}: {} of {} issued, {exact}{broken}",
        drop.coupon_name, drop.coupon_id, drop.drop_id, after.rows, drop.quantity
    );
    (drop, numbers.join(" · "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Kind;

    #[test]
    fn exact_drop_with_failed_claims_is_printed_as_exact_with_their_number() {
        let drop = |exact, failed_claims| {
            let numbers = Numbers {
                users: 18,
                rows: 18,
                failed_claims,
                ..Numbers::default()
            };
            lines_of(&DropReport {
                coupon_name: "Winter".to_owned(),
                exact,
                before: numbers,
                after: numbers,
                ..DropReport::begun(CouponId(1), DropId(7), 20)
            })
            .0
        };
        assert_eq!(
            drop(true, 0),
            "Winter · coupon 1, drop 7: 18 of 20 issued, exact"
        );
        assert!(
            drop(true, 2)
                .ends_with("exact for everybody whom Redis knows; 2 failed claims are left")
        );
        assert_eq!(
            drop(false, 2),
            "Winter · coupon 1, drop 7: 18 of 20 issued, NOT exact"
        );
    }

    #[test]
    fn finding_says_what_to_do_without_table_names_or_reason_codes() {
        let left = Finding {
            coupon_id: Some(CouponId(1)),
            drop_id: Some(DropId(7)),
            slot: Some(1100),
            user_id: Some("customer-4711".to_owned()),
            ..Finding::report(Kind::FailedClaim, "failed claim 3 (slot_taken)")
        };
        let masked = text_of(&left, false);
        assert_eq!(outcome(&left), "left for you");
        assert_eq!(
            masked,
            "failed_claim, drop 7, slot 1100, c•••11: failed claim 3 (slot_taken)"
        );
        for id in ["3", "slot", "claim", "7"] {
            let number = text_of(
                &Finding {
                    user_id: Some(id.to_owned()),
                    ..left.clone()
                },
                false,
            );
            let masked = masked.replace("c•••11", &person(id));
            assert_eq!(number, masked, "{id}");
        }
        let issued = Finding {
            action: ActionKind::Issue,
            result: Outcome::Applied,
            needs_person: false,
            ..left
        };
        let full = text_of(&issued, true);
        assert_eq!(outcome(&issued), "applied");
        assert!(
            full.contains("customer-4711: failed claim 3 (slot_taken) (issued late)"),
            "{full}"
        );
    }
}
