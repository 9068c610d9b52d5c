//! The demo: a rush during which faults are injected, and the proof afterwards.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{TimeDelta, Utc};
use firstcome_stack::Mail;
use tokio::time::{Instant, interval, sleep};

use crate::answer::AnswerKind;
use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::local::faults::{self, Forger};
use crate::local::outcome::{DemoOutcome, is_about_a_repair};
use crate::local::proof::Proof;
use crate::local::system::{System, SystemOptions};
use crate::ops::Ops;
use crate::table;
use crate::tally::{CrowdProgress, Tally};
use crate::terminal::{ProgressLine, grouped, step};

/// The coupon's name, which also appears in mails.
pub const COUPON_NAME: &str = "Winter coupon";

const OPENS_AFTER: TimeDelta = TimeDelta::seconds(4);
const EXACT_LIMIT: Duration = Duration::from_secs(120);
const MAIL_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// Number of messages of the rush that are sent again afterwards.
const COPIES: usize = 5;
/// The counter of messages that a consumer refused.
const REFUSED_METRIC: &str = "firstcome_consumer_refused_total";
/// The counter of finished passes.
const PASSES_METRIC: &str = "firstcome_passes_total";

#[derive(Debug, Clone)]
pub struct DemoSize {
    pub quantity: u32,
    pub people: u32,
    /// Number of requests per user.
    pub requests_per_person: u32,
    pub connections: usize,
}

/// Runs the demo on private servers and shuts everything down again.
///
/// # Errors
///
/// Fails if something cannot be started or queried. A total that is not exact is no error; the
/// [`DemoOutcome`] reports it.
pub async fn run(size: &DemoSize, options: &SystemOptions) -> Result<DemoOutcome> {
    let mut system = System::start(options).await?;
    let outcome = play(size, &mut system).await;
    let complaints = system.stop().await;
    outcome.map(|outcome| DemoOutcome {
        complaints,
        ..outcome
    })
}

async fn play(size: &DemoSize, system: &mut System) -> Result<DemoOutcome> {
    let coupon_id = make_coupon(&system.api()?, size).await?;
    step(format!(
        "coupon {coupon_id}: {} to give away, opens in {} s",
        size.quantity,
        OPENS_AFTER.num_seconds()
    ));
    let forger = Forger::new(&system.installation, coupon_id)?;
    faults::refuse_some_rows(&system.servers.stack.mysql).await?;
    step(format!(
        "fault 1: MySQL refuses every {}th slot from the consumer",
        faults::REFUSED_EVERY
    ));
    forger.unreadable().await?;
    let victim = faults::reader_of(&system.consumers, REFUSED_METRIC).await?;
    step(format!(
        "fault 2: a message that is not a claim; {} read it and stored it for an operator",
        system.consumers[victim].name()
    ));
    until_open(system, coupon_id).await?;

    let tally = rush(size, system, coupon_id, victim).await?;
    step(format!(
        "the rush is over: {} requests in {:.1} s",
        grouped(tally.requests),
        tally.seconds
    ));
    for (user_id, promise) in tally.promises.iter().take(COPIES) {
        forger.copies(coupon_id, user_id, *promise).await?;
    }
    step(format!(
        "fault 4: {COPIES} claims arrive twice, and once more in an unknown version"
    ));

    let proof = until_exact(size, system, coupon_id, &tally).await?;
    faults::refuse_no_more(&system.servers.stack.mysql).await?;
    let last_pass = system.reconciler()?.reconcile().await?;
    let passes = faults::sum(&system.reconciler.metrics().await?, PASSES_METRIC);
    let passes = passes.with_context(|| format!("the reconciler has no metric {PASSES_METRIC}"))?;
    let mails = mails(system).await;
    let proof = if proof.exact() {
        Proof::read(
            &system.servers.stack.mysql,
            coupon_id,
            size.quantity,
            &tally.promises,
        )
        .await?
    } else {
        proof
    };
    Ok(DemoOutcome {
        tally,
        proof,
        mails,
        last_pass,
        passes,
        complaints: Vec::new(),
    })
}

async fn make_coupon(api: &Ops, size: &DemoSize) -> Result<i64> {
    let opens_at = Utc::now() + OPENS_AFTER;
    let made = api
        .make_coupon(COUPON_NAME, size.quantity, opens_at, TimeDelta::hours(1))
        .await?;
    made["id"]
        .as_i64()
        .with_context(|| format!("no coupon was created: {made}"))
}

/// Waits until every API shows the coupon as open.
async fn until_open(system: &System, coupon_id: i64) -> Result<()> {
    let path = format!("/v1/coupons/{coupon_id}");
    let begun = Instant::now();
    for target in system.targets()? {
        let api = Ops {
            target,
            token: String::new(),
        };
        loop {
            let coupon = api.get(&path).await?;
            if coupon["current_drop"]["state"] == "open" {
                break;
            }
            anyhow::ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "the coupon did not open: {coupon}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Lets all users claim. Once a third of the slots is taken, kills the consumer of the coupon's
/// partition.
async fn rush(
    size: &DemoSize,
    system: &mut System,
    coupon_id: i64,
    victim: usize,
) -> Result<Tally> {
    let crowd = Crowd::gather(size.people, "person-", size.requests_per_person, 1)?;
    let people = grouped(size.people.into());
    let requests = grouped(crowd.requests() as u64);
    step(format!(
        "open: {people} users send {requests} requests to {} APIs",
        system.apis.len()
    ));
    let plan = CrowdPlan::new(system.targets()?, coupon_id, crowd, size.connections);
    let plan = CrowdPlan {
        patience: Duration::from_secs(30),
        ..plan
    };
    let progress = Arc::new(CrowdProgress::default());
    let mut live = ProgressLine::new();
    let expected = plan.crowd.requests() as u64;
    let consumer = system.consumers.remove(victim);
    // Text to print between two updates of the progress line.
    let news = Cell::new(None);
    let kill = async {
        progress
            .admitted(u64::from(size.quantity.div_ceil(3)))
            .await;
        let name = consumer.name().to_owned();
        let before = progress.count(AnswerKind::Accepted);
        consumer.kill().await?;
        let after = progress.count(AnswerKind::Accepted);
        news.set(Some(format!(
            "fault 3: SIGKILL to {name} after {before} admissions; {after} users had been admitted when it was gone"
        )));
        anyhow::Ok(())
    };
    let rushing = async {
        let tally = generator::run(plan, progress.clone()).await;
        // Fewer users may have been admitted than the kill waits for.
        progress.give_up();
        tally
    };
    let show = || {
        live.show(&table::progress(&progress, expected));
        if let Some(text) = news.take() {
            live.finish(&table::progress(&progress, expected));
            step(text);
        }
    };
    let (tally, killed) = while_showing(async { tokio::join!(rushing, kill) }, show).await;
    live.finish(&table::progress(&progress, expected));
    news.take().into_iter().for_each(step);
    killed?;
    tally
}

/// Awaits `work` and calls `show` periodically meanwhile.
async fn while_showing<T>(work: impl Future<Output = T>, mut show: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = interval(POLL);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => show(),
        }
    }
}

async fn until_exact(
    size: &DemoSize,
    system: &System,
    coupon_id: i64,
    tally: &Tally,
) -> Result<Proof> {
    let begun = Instant::now();
    let mut live = ProgressLine::new();
    loop {
        let proof = Proof::read(
            &system.servers.stack.mysql,
            coupon_id,
            size.quantity,
            &tally.promises,
        )
        .await?;
        let shown = format!(
            "{:.1} s · rows {} of {} · by the reconciler {} · dead letters {}, unresolved {} · promises without a row {}",
            begun.elapsed().as_secs_f64(),
            grouped(proof.rows as u64),
            grouped(size.quantity.into()),
            grouped(proof.by_reconciler as u64),
            grouped(proof.refused_in_all()),
            grouped(proof.refused_open()),
            grouped(proof.promised_without_row.len() as u64),
        );
        if proof.exact() || begun.elapsed() > EXACT_LIMIT {
            live.finish(&shown);
            return Ok(proof);
        }
        live.show(&shown);
        sleep(POLL).await;
    }
}

/// Waits until a mail reports the repair, and returns all mails.
async fn mails(system: &System) -> Vec<Mail> {
    step("waiting for the mail");
    if system
        .servers
        .stack
        .mail
        .wait_for(is_about_a_repair, MAIL_LIMIT)
        .await
        .is_err()
    {
        step(format!("no mail about a repair within {MAIL_LIMIT:?}"));
    }
    system.servers.stack.mail.mails()
}
