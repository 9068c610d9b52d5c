//! `firstcome-reconciler once`: runs one pass now, and prints its result to the terminal.

use std::process::ExitCode;
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::subject::Subject;
use firstcome_shared::tuning::Tuning;
use tokio_util::sync::CancellationToken;

use crate::args::OnceArgs;
use crate::context::{Ask, Confirmation, PassError, PassRequest};
use crate::findings_csv;
use crate::jobs;
use crate::notify::Notifier;
use crate::notify::wording::{LONGEST, line, person, plainly};
use crate::passes::{NO_SUCH, Worker, exists};
use crate::queries::Scope;
use crate::report::{DropReport, Examined, Finding, HeldBack, Outcome, Run, Status};
use crate::run::Reconciler;

/// Maximum number of findings printed for a run. `--json` and the API return all of them.
const SHOWN: usize = 50;

/// Maximum wait for the mail server. Unsent mails stay in the outbox.
const MAIL_LIMIT: Duration = Duration::from_secs(20);

/// Maximum wait for a store, in seconds. Short, because an operator waits at the terminal.
const STARTUP_WAIT: u64 = 5;

/// Runs the pass. Exits with 0 if clean or repaired, 1 if drift is left, and 2 if the pass could
/// not run.
pub async fn run(args: OnceArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let stores = args.reconcile.stores()?;
    let patience = Duration::from_secs(Tuning::StartupWaitSeconds.or(STARTUP_WAIT));
    let checked = crate::start_check::check(&stores, patience, &stop).await;
    checked.map_err(|(_, error)| error)?;
    let notifier = Notifier::new(stores.db.clone(), &args.notify, &args.webhooks)?;
    if !args.dry_run {
        notifier.announce();
    }
    let settings = args.reconcile.settings();
    let reconciler = Reconciler::new(stores.clone(), settings.clone());
    if !args.dry_run {
        // Without the check of the stores' settings, which the start check has just made.
        jobs::all(&stores, &settings, &reconciler.notes).await;
        if args.deep {
            jobs::erase(&stores, &settings).await;
        }
    }
    let patience = Duration::from_secs(args.wait_seconds);
    let request = PassRequest {
        scope: Scope {
            coupon: args.coupon.map(CouponId),
            drop: args.drop.map(DropId),
        },
        dry_run: args.dry_run,
        deep: args.deep,
        confirms: Confirmation::held_back(args.confirm),
        ..PassRequest::new(Ask::Cli { patience })
    };
    anyhow::ensure!(exists(&stores.db, request.scope).await, NO_SUCH);
    let worker = Worker::Own(Box::new(reconciler));
    let run = match worker.once(&request, Some(&notifier), &stop).await {
        Ok(run) => run,
        Err(error @ PassError::Busy) => {
            anyhow::bail!("{error}; it did not end within {} s", args.wait_seconds)
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(file) = &args.report {
        findings_csv::write_file(&run, file)?;
    }
    mail_and_print(Some(&notifier), &run, args.json, args.full_ids).await
}

pub(crate) async fn mail_and_print(
    notifier: Option<&Notifier>,
    run: &Run,
    json: bool,
    full_ids: bool,
) -> anyhow::Result<ExitCode> {
    if let Some(notifier) = notifier {
        if !run.dry_run
            && let Err(error) = notifier.evaluate_last().await
        {
            tracing::error!(
                error = format!("{error:#}"),
                "alerts could not be evaluated"
            );
        }
        if let Err(error) = notifier.flush(MAIL_LIMIT).await {
            tracing::warn!(error = format!("{error:#}"), "mails are left in the outbox");
        }
    }
    if json {
        firstcome_shared::say!("{}", serde_json::to_string_pretty(run)?);
    } else {
        print(run, full_ids);
    }
    Ok(ExitCode::from(match run.status {
        Status::Clean | Status::Repaired => 0,
        Status::Drift | Status::Braked => 1,
        Status::Failed | Status::Running => 2,
    }))
}

fn print(run: &Run, full_ids: bool) {
    let mut room = SHOWN;
    let mut print_all = |findings: &[Finding]| {
        for finding in findings.iter().take(room) {
            firstcome_shared::say!("{}", finding_line(finding, full_ids));
        }
        room = room.saturating_sub(findings.len());
    };
    for drop in run.drops.iter().filter(|drop| is_listed(drop)) {
        firstcome_shared::say!("{}", drop_line(drop));
        print_all(&drop.findings);
        if let Some(HeldBack { users, fingerprint }) = drop.held_back {
            firstcome_shared::say!(
                "{users} users would lose their slot; --confirm {fingerprint} confirms exactly these"
            );
        }
    }
    print_all(&run.findings);
    let total = run.all_findings().count();
    if total > SHOWN {
        firstcome_shared::say!("… and {} more; `--json` shows all", total - SHOWN);
    }
    let (drops, Examined { users, rows, .. }) = run.examined();
    let status = run.status.as_str();
    let run_id = &run.run_id;
    firstcome_shared::say!(
        "{status}; drops: {drops}, users: {users}, rows: {rows}, findings: {total}; run {run_id}"
    );
    if let Some(error) = &run.error {
        firstcome_shared::say!("failed: {}", plainly(run.failure(), error));
    }
}

/// Whether a drop is printed: it is not exact, has changed, or has findings. Campaigns always are.
fn is_listed(drop: &DropReport) -> bool {
    let is_changed = !drop.findings.is_empty() || drop.before != drop.after;
    match drop.drop_id.subject() {
        Subject::Drop => !drop.exact || is_changed,
        // A file has few campaigns.
        Subject::Campaign => true,
    }
}

fn drop_line(drop: &DropReport) -> String {
    let exact = if drop.exact || drop.undecided().is_some() {
        drop.exactness()
    } else {
        "NOT exact".to_owned()
    };
    let rows = match (drop.before.rows, drop.after.rows) {
        (before, after) if before == after => after.to_string(),
        (before, after) => format!("{before} → {after}"),
    };
    let ids = match drop.drop_id.subject() {
        Subject::Drop => format!(" · coupon {}, drop {}", drop.coupon_id, drop.drop_id),
        Subject::Campaign => String::new(),
    };
    let name = line(&drop.coupon_name, LONGEST);
    let day = drop.day.map(|day| format!(", {day}")).unwrap_or_default();
    format!(
        "{name}{day}{ids}: {rows} of {} issued, {exact}",
        drop.quantity
    )
}

/// Describes a finding and its outcome in one line.
fn finding_line(finding: &Finding, full_ids: bool) -> String {
    let outcome = match finding.result {
        Outcome::Skipped if finding.needs_person => "left for you",
        result => result.as_str(),
    };
    let user = finding.user_id.as_ref().map(|id| {
        if full_ids {
            // Another system's ids may be any text, even control sequences for terminals.
            line(id, LONGEST)
        } else {
            person(id)
        }
    });
    let place = [
        finding
            .drop_id
            .and_then(DropId::label)
            .map(|drop| format!(", {drop}")),
        finding.slot.map(|slot| format!(", slot {slot}")),
        user.map(|user| format!(", {user}")),
    ]
    .map(Option::unwrap_or_default)
    .concat();
    let kind = finding.kind.as_str();
    let text = line(&finding.text(), LONGEST);
    format!("{outcome:>12}  {kind}{place}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{ActionKind, Kind, Trigger};

    /// A script that runs `attach --once` during a sale must not fail, and must not read "exact".
    #[test]
    fn line_of_a_campaign_says_why_it_is_not_exact_although_the_run_is_clean() {
        let mut run = Run::begun("run", Trigger::Cli, chrono::Utc::now());
        run.drops.push(DropReport {
            coupon_name: "Winter".to_owned(),
            ..DropReport::begun(CouponId(-7), DropId::of_campaign("Winter", None), 100)
        });
        for (promised, expected) in [(1, "being sold"), (0, "nothing found yet")] {
            run.drops[0].before.users = promised;
            run.end();
            assert_eq!(run.status, Status::Clean);
            let printed = drop_line(&run.drops[0]);
            let expected = format!("Winter: 0 of 100 issued, {expected}");
            assert!(printed.starts_with(&expected), "{printed}");
        }
        let left = Finding::report(Kind::Unissued, "it is in Redis, and no row came");
        run.drops[0].findings.push(left);
        run.end();
        assert_eq!(run.status, Status::Drift);
        let printed = drop_line(&run.drops[0]);
        assert!(printed.ends_with("NOT exact"), "{printed}");
    }

    #[test]
    fn line_of_a_finding_masks_the_user_and_names_the_outcome() {
        let user = |id: &str| Some(id.to_owned());
        let left = Finding {
            drop_id: Some(DropId(7)),
            slot: Some(1100),
            user_id: user("customer-4711"),
            dead_letter: Some(3),
            ..Finding::report(Kind::FailedClaim, "its user holds a row")
        };
        let masked = finding_line(&left, false);
        let text = "failed claim 3: its user holds a row";
        let expected = format!("left for you  failed_claim, drop 7, slot 1100, c•••11: {text}");
        assert_eq!(masked, expected);
        let issued = Finding {
            action: ActionKind::Issue,
            result: Outcome::Applied,
            needs_person: false,
            ..left
        };
        let full = finding_line(&issued, true);
        assert!(
            full.starts_with("     applied  failed_claim, drop 7"),
            "{full}"
        );
        let ends = format!("customer-4711: {text}");
        assert!(full.ends_with(&ends), "{full}");
    }
}
