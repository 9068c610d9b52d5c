//! The demo: a rush during which faults are injected, and the proof afterwards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use firstcome_oracle::{Recorder, Verdict};
use firstcome_stack::Mail;
use mail_parser::MessageParser;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::answer::AnswerKind;
use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::installation::until;
use crate::judged::{Rows, RushHistory, kept};
use crate::local::faults;
use crate::local::system::Local;
use crate::ops::Ops;
use crate::rush::show_progress;
use crate::shops::{self, ShopTally};
use crate::tally::{CrowdProgress, Tally};
use crate::terminal::{Progress, grouped, step, table};

/// The coupon's name, which also appears in mails.
const COUPON_NAME: &str = "Winter coupon";
const PREFIX: &str = "person-";
const OPENS_AFTER: TimeDelta = TimeDelta::seconds(4);
const EXACT_LIMIT: Duration = Duration::from_secs(120);
const MAIL_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const REQUESTS_PER_PERSON: u32 = 3;
const CONNECTIONS: usize = 256;
const CONNECTIONS_OF_SHOPS: usize = 32;
/// Passes every three seconds.
const CRON: &str = "*/3 * * * * *";

/// Runs the demo on private servers, prints the result and shuts everything down again. Returns
/// whether the total is exact, each code is used by one order, a mail reports a repair, the oracle
/// passes the history, and every process stopped cleanly.
pub async fn run(quantity: u32, people: u32) -> Result<bool> {
    let mut system = Local::start(CRON, None).await?;
    let shown = play(quantity, people, &mut system).await;
    let complaints = system.stop().await;
    for complaint in &complaints {
        println!("{complaint}");
    }
    Ok(shown? && complaints.is_empty())
}

async fn play(quantity: u32, people: u32, system: &mut Local) -> Result<bool> {
    let coupon = system
        .api()
        .make_coupon(COUPON_NAME, quantity, OPENS_AFTER)
        .await?;
    step(format!(
        "coupon {coupon}: {quantity} to give away, opens in 4 s"
    ));
    faults::refuse_some_rows(&system.installation.servers.mysql).await?;
    let every = faults::REFUSED_EVERY;
    step(format!(
        "fault 1: MySQL refuses every {every}th slot from the consumer"
    ));
    faults::send_garbage(&system.installation.system).await?;
    step("fault 2: a message that is not a claim, which is stored for an operator");
    for api in &system.apis {
        let api = Ops::new(&api.url, "");
        until("the coupon opens", async || api.is_open(coupon).await).await?;
    }
    let history = RushHistory::begin(&system.api(), coupon, None).await?;
    let tally = rush(quantity, people, system, coupon, &history.recorder).await?;
    let (took, requests) = (tally.seconds, grouped(tally.requests()));
    step(format!(
        "the rush is over: {requests} requests in {took:.1} s"
    ));

    until_issued(quantity, system, &history).await?;
    faults::refuse_no_more(&system.installation.servers.mysql).await?;
    let shops = use_codes(system, coupon).await?;
    let last_pass = system.reconciler().reconcile().await?;
    let is_mailed = print_mails(system).await;
    let rows = rows(system, &history).await?;
    let judgement = history.judge(Some(&rows), PREFIX)?;
    let mut shown = tally.rows();
    shown.extend(rows.table());
    shown.push(kept(&judgement));
    shown.extend(stored(system, coupon).await?);
    shown.push(shops.row());
    shown.push(("last pass".into(), in_words(&last_pass)));
    println!("{}", table(shown));
    println!("the oracle: {judgement}");
    let number = quantity as usize;
    let is_exact = rows.all.len() == number && judgement.verdict == Verdict::Pass;
    let is_used_once = shops.used_once == number;
    let is_exact = is_exact && is_used_once && is_pass_exact(&last_pass);
    Ok(is_exact && is_mailed && tally.good())
}

/// Lets two orders try to use each code at once, each at a different API.
async fn use_codes(system: &Local, coupon: i64) -> Result<ShopTally> {
    let mut conn = system.installation.mysql().await?;
    let codes = shops::codes(&mut conn, coupon, "").await?;
    conn.disconnect().await?;
    let token = system.installation.setting("REDEEM_TOKEN");
    let apis = system.apis.iter().map(|api| Ops::new(&api.url, &token));
    step(format!("two orders use each of the {} codes", codes.len()));
    shops::use_codes(apis.collect(), codes, 2, CONNECTIONS_OF_SHOPS).await
}

/// Lets all users claim. Once a third of the slots is taken, kills a consumer.
async fn rush(
    quantity: u32,
    people: u32,
    system: &mut Local,
    coupon_id: i64,
    recorder: &Recorder,
) -> Result<Tally> {
    let crowd = Crowd::gather(people, PREFIX, REQUESTS_PER_PERSON)?;
    let (users, requests) = (grouped(people.into()), grouped(crowd.requests() as u64));
    step(format!(
        "open: {users} users send {requests} requests to two APIs"
    ));
    let plan = CrowdPlan {
        targets: system.targets()?,
        coupon_id,
        crowd,
        connections: CONNECTIONS,
        tokens: None,
        rate: None,
        patience: Duration::from_secs(30),
        warm_up: false,
        recorder: Some(recorder.clone()),
    };
    let progress = Arc::new(CrowdProgress::default());
    let consumer = system.consumers.remove(0);
    let kill = async {
        progress.admitted(u64::from(quantity.div_ceil(3))).await;
        let name = consumer.program.name().to_owned();
        let before = progress.count(AnswerKind::Accepted);
        consumer.kill().await?;
        let after = progress.count(AnswerKind::Accepted);
        step(format!(
            "fault 3: SIGKILL to {name} after {before} admissions; {after} users had been admitted when it was gone"
        ));
        anyhow::Ok(())
    };
    let rushing = async {
        let tally = generator::run(plan, progress.clone()).await;
        // Fewer users may have been admitted than the kill waits for.
        progress.give_up();
        tally
    };
    let work = async { tokio::join!(rushing, kill) };
    let (tally, killed) = show_progress(&progress, false, work).await;
    killed?;
    tally
}

async fn rows(system: &Local, history: &RushHistory) -> Result<Rows> {
    let mut conn = system.installation.mysql().await?;
    let rows = history.rows(&mut conn).await?;
    conn.disconnect().await?;
    Ok(rows)
}

/// Waits until every slot has its row, but at most for `EXACT_LIMIT`.
async fn until_issued(quantity: u32, system: &Local, history: &RushHistory) -> Result<()> {
    let begun = Instant::now();
    let mut shown = Progress::default();
    while begun.elapsed() < EXACT_LIMIT {
        let rows = rows(system, history).await?.all.len();
        if rows == quantity as usize {
            break;
        }
        shown.show(|| format!("rows {rows} of {quantity}"));
        sleep(POLL).await;
    }
    Ok(())
}

/// Returns rows of the table: the dead letters, and the time until every row existed.
async fn stored(system: &Local, coupon: i64) -> Result<[(String, String); 2]> {
    let mysql = &system.installation.servers.mysql;
    let letters = "SELECT COUNT(*), COUNT(*) - COUNT(resolved_at) FROM firstcome.failed_claims";
    let letters = mysql.query(letters).await?.concat();
    let took = format!(
        "SELECT ROUND(TIMESTAMPDIFF(MICROSECOND, MAX(claimed_at), MAX(issued_at)) / 1e6, 1)
         FROM firstcome.issued_coupons WHERE coupon_id = {coupon}"
    );
    let took = mysql.query(&took).await?.concat().concat();
    Ok([
        (
            "dead letters, of them left for an operator (fault 2)".to_owned(),
            letters.join(", "),
        ),
        ("seconds from the last admission to exact".to_owned(), took),
    ])
}

/// Whether a pass has examined a drop, and found all that it examined exact.
fn is_pass_exact(pass: &Value) -> bool {
    let drops = pass["drops"].as_array();
    drops.is_some_and(|drops| !drops.is_empty() && drops.iter().all(|drop| drop["exact"] == true))
}

fn in_words(pass: &Value) -> String {
    if is_pass_exact(pass) {
        "exact".into()
    } else {
        format!("not exact: {}", pass["status"])
    }
}

/// Prints all mails once one of them reports a repair, or after `MAIL_LIMIT`. Returns whether one
/// does.
async fn print_mails(system: &Local) -> bool {
    let sink = &system.installation.servers.mail;
    let repaired = |mail: &Mail| mail.text().contains("repaired");
    let is_mailed = sink.wait_for(repaired, MAIL_LIMIT).await.is_ok();
    if !is_mailed {
        step(format!("no mail about a repair within {MAIL_LIMIT:?}"));
    }
    for mail in sink.mails() {
        println!("─── mail {}\n{}\n", "─".repeat(20), readable(&mail));
    }
    is_mailed
}

/// Formats a mail as its recipient reads it, up to its commands: they name servers of this run.
fn readable(mail: &Mail) -> String {
    let parsed = MessageParser::default().parse(&mail.raw);
    let text = parsed.and_then(|message| {
        let body = message.body_text(0)?.replace("\r\n", "\n");
        let body = body.split("\n== The pass ==").next().unwrap_or_default();
        Some(format!(
            "Subject: {}\n\n{}",
            message.subject()?,
            body.trim_end()
        ))
    });
    text.unwrap_or_else(|| mail.text())
}
