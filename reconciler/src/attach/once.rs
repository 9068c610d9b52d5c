//! `attach FILE --once`: looks until everything that differs is old enough, printed to the terminal.
//! Without `DATABASE_URL` nothing is recorded, so that it needs nothing but the file.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use firstcome_attach::{Confirm, Engine};
use tokio_util::sync::CancellationToken;

use super::args::AttachArgs;
use super::watched::must_be_theirs;
use crate::context::{Ask, Confirmation, PassRequest};
use crate::findings_csv;
use crate::http::runs;
use crate::notify::Notifier;
use crate::once::mail_and_print;
use crate::passes::Worker;
use crate::queries::Scope;
use crate::report::{DropReport, Judged, Kind, Run};

/// Runs the passes. Exits with 0 if nothing is left to do, 1 if something is, and 2 if a campaign
/// could not be compared. A campaign that is being sold is not exact yet, but needs nobody.
pub(super) async fn run(args: AttachArgs, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    let engine = super::engine(&args)?;
    if let Some(ours) = &engine.ours {
        ours.migrate().await?;
        must_be_theirs(&ours.db, &engine.file).await?;
    }
    let campaign = args
        .campaign
        .as_ref()
        .map(|name| engine.file.coupon_id(name));
    for note in engine.check().await {
        firstcome_shared::complain!("note: {note}");
    }
    firstcome_shared::complain!(
        "looking; while something differs, again until it is as old as in_flight"
    );
    let confirms = match &args.confirm {
        Some(plan) => Confirmation::Named(Confirm::shown_by(&shown(&engine, plan).await?)),
        None => Confirmation::None,
    };
    let request = PassRequest {
        scope: Scope {
            coupon: campaign.transpose().map_err(anyhow::Error::msg)?,
            drop: None,
        },
        dry_run: args.dry_run,
        confirms,
        ..PassRequest::new(Ask::Cli {
            patience: super::PATIENCE,
        })
    };
    let worker = Worker::Attached(Box::new(engine.clone()));
    let ours = engine.ours.as_ref();
    let notifier = ours
        .map(|ours| super::notifier(&engine.file, ours, &args))
        .transpose()?;
    let run = worker.once(&request, notifier.as_ref(), &stop).await?;
    print(&args, &engine, notifier.as_ref(), run).await
}

async fn print(
    args: &AttachArgs,
    engine: &Engine,
    notifier: Option<&Notifier>,
    mut run: Run,
) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.report {
        findings_csv::write_file(&run, file)?;
    }
    if !args.json {
        // Of a campaign that could not be compared, only that is known.
        let is_compared = |it: &DropReport| it.judged != Judged::default();
        run.drops
            .retain(|it| is_compared(it) || !it.findings.is_empty());
    }
    let code = mail_and_print(notifier, &run, args.json, args.full_ids).await?;
    if !args.json && run.all_findings().next().is_some() {
        if args.full_ids {
            for line in engine.shown().await {
                firstcome_shared::say!("{line}");
            }
        }
        firstcome_shared::say!(
            "see docs/ATTACH.md; --full-ids prints the ids of users, and the commands with them"
        );
    }
    let is_compared = run.all_findings().all(|it| it.kind != Kind::Stalled);
    Ok(if is_compared { code } else { ExitCode::from(2) })
}

/// Reads the run that is confirmed, by the id of a recorded one or from the file with what it
/// printed.
async fn shown(engine: &Engine, plan: &str) -> anyhow::Result<Run> {
    if runs::is_run_id(plan) {
        let ours = engine.ours.as_ref().context(
            "--confirm: a run is recorded only with DATABASE_URL; without it, give the file with \
            what --once --json printed",
        )?;
        let page = runs::page(&ours.db, plan.to_owned(), super::FINDINGS, 0).await?;
        let run = page.map(|page| page.run);
        return run.with_context(|| format!("--confirm: there is no run {plan}"));
    }
    let text = std::fs::read_to_string(Path::new(plan))
        .with_context(|| format!("--confirm: {plan} is neither a run nor a file"))?;
    serde_json::from_str(&text).context("--confirm: the file is not what --once --json printed")
}
