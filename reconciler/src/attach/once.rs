//! `attach FILE --once`: one pass now, printed to the terminal. Without `DATABASE_URL` nothing is
//! recorded, so that a first look needs nothing but the file.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use firstcome_shared::mysql::migrations;
use tokio_util::sync::CancellationToken;

use super::{AttachError, Attached};
use crate::args::AttachArgs;
use crate::context::{PassError, PassRequest};
use crate::notify::Notifier;
use crate::notify::wording::{count, grouped, line};
use crate::once::{MAIL_LIMIT, SHOWN, finding_line};
use crate::passes::mail;
use crate::report::{DropReport, Kind, Run, Status, Trigger};
use crate::run::new_run_id;

/// Runs the pass. Exits with 0 if everything is exact or repaired, 1 if something is left, and 2 if
/// a campaign could not be compared.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let attached = Attached::new(&args)?;
    if let Some(ours) = &attached.ours {
        migrations::check(&ours.settings)
            .await
            .context("DATABASE_URL")?;
    }
    let coupon = args.campaign.as_ref().map(|name| {
        let found = attached.file.campaigns.iter().find(|it| it.name == *name);
        found
            .map(|it| it.coupon_id())
            .with_context(|| format!("the file has no campaign {name:?}"))
    });
    let coupon = coupon.transpose()?;
    ensure!(
        !args.confirm || coupon.is_some(),
        "--confirm needs --campaign: what is held back is confirmed campaign by campaign"
    );
    match attached.check().await {
        Ok(warnings) => warnings.iter().for_each(|it| eprintln!("note: {it}")),
        Err(error @ AttachError::Misfit(_)) => bail!("{}: {error}", args.file.display()),
        // The pass reports it.
        Err(error) => tracing::debug!(%error, "the file is not checked"),
    }
    let longest = attached.file.campaigns.iter().map(|it| it.in_flight).max();
    eprintln!(
        "reading; if something differs, the second look follows within {:?}",
        longest.unwrap_or_default()
    );
    let request = PassRequest {
        coupon,
        dry_run: args.dry_run,
        confirm: args.confirm,
        patience: Duration::from_secs(60),
        ..PassRequest::new(Trigger::Cli)
    };
    let run = match attached.pass(&request, &new_run_id(), &stop).await {
        Ok(run) => run,
        Err(error @ PassError::Busy) => {
            bail!("{error}, perhaps of a daemon: ask again when it has ended")
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(ours) = &attached.ours {
        let notifier = Notifier::new(ours.db.clone(), &args.notify, &args.webhooks)?;
        mail(&notifier, &run).await;
        if let Err(error) = notifier.flush(MAIL_LIMIT).await {
            tracing::warn!(error = format!("{error:#}"), "mails are left in the outbox");
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&run)?);
    } else {
        print(&run, args.full_ids);
    }
    let is_incomplete = run.findings.iter().any(|it| it.kind == Kind::Stalled);
    Ok(ExitCode::from(match run.status {
        Status::Failed | Status::Running => 2,
        _ if is_incomplete => 2,
        Status::Clean | Status::Repaired => 0,
        Status::Drift | Status::Braked => 1,
    }))
}

fn print(run: &Run, full_ids: bool) {
    for finding in &run.findings {
        println!("{}", finding_line(finding, full_ids));
    }
    for drop in &run.drops {
        println!("{}", drop_line(drop));
        for finding in drop.findings.iter().take(SHOWN) {
            println!("{}", finding_line(finding, full_ids));
        }
        if let Some(more) = drop
            .findings
            .len()
            .checked_sub(SHOWN)
            .filter(|more| *more > 0)
        {
            println!("… and {more} more; `--json` shows all");
        }
    }
    if let Some(error) = &run.error {
        println!("failed: {error}");
    }
    let (drops, examined) = run.examined();
    println!(
        "{}: {}, {} and {} examined, {}; see docs/ATTACH.md",
        run.status.as_str(),
        count(drops, "campaign", "campaigns"),
        count(examined.users, "user", "users"),
        count(examined.rows, "row", "rows"),
        count(run.all_findings().count() as u64, "finding", "findings"),
    );
}

/// Says how exact a campaign is, such as "exactly 100" or "oversold by 6".
fn drop_line(drop: &DropReport) -> String {
    let [rows, quantity] = [drop.after.rows, u64::from(drop.quantity)];
    let exact = match (drop.exact, rows.checked_sub(quantity)) {
        (true, Some(0)) => format!("exactly {}", grouped(quantity)),
        (true, _) => "exact so far".to_owned(),
        (false, Some(over @ 1..)) => format!("OVERSOLD by {}", grouped(over)),
        (false, _) => "NOT exact".to_owned(),
    };
    let mut text = format!(
        "{}: {} of {} issued, {exact}",
        line(&drop.coupon_name, 100),
        grouped(rows),
        grouped(quantity)
    );
    for (name, before, after) in [
        ("rows", drop.before.rows, drop.after.rows),
        ("in Redis", drop.before.users, drop.after.users),
        (
            "failed events",
            drop.before.failed_claims,
            drop.after.failed_claims,
        ),
    ] {
        if before != after {
            text = format!("{text} · {name} {before} → {after}");
        }
    }
    text
}
