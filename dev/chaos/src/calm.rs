//! Traffic without faults: rushes, returns, promotions from the waiting list, revocations, changes
//! of settings and of the allow list, with a pass every second. Passes must not take any healthy
//! change for damage, so no coupon may close.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_testkit::MadeCoupon;
use firstcome_testkit::histories::{History, Recorder, Rule, Verdict, Violation, check};
use parking_lot::Mutex;

use crate::clients::Clients;
use crate::excuses::Excuses;
use crate::operators::Operators;
use crate::run::{announce, record_end_of};
use crate::schedule::FaultSchedule;
use crate::servers::ProxiedServers;
use crate::system::SystemUnderTest;
use crate::wait::pause;

/// Coupons in each round. The first one has an allow list.
const COUPONS: u32 = 4;

/// Time limit for the rows of a round.
const ISSUED: Duration = Duration::from_secs(30);

/// What happened during the calm.
#[derive(Debug, Default)]
pub struct SeenCalm {
    pub rounds: u32,
    pub promises: usize,
    pub revoked: usize,
    pub passes: u64,
    /// Coupon, and the gate before and after it closed.
    pub closings: Vec<String>,
    /// Other failures.
    pub wrong: Vec<String>,
}

impl SeenCalm {
    pub fn is_good(&self) -> bool {
        self.closings.is_empty() && self.wrong.is_empty() && self.promises > 0 && self.passes > 5
    }
}

impl fmt::Display for SeenCalm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} rounds, {} promises, {} returned or revoked, {} passes: {} closings",
            self.rounds,
            self.promises,
            self.revoked,
            self.passes,
            self.closings.len()
        )?;
        for line in self.closings.iter().chain(&self.wrong) {
            write!(out, "\n  {line}")?;
        }
        Ok(())
    }
}

/// The gates of the coupons that must stay open.
#[derive(Default)]
struct Gates {
    /// The last value of each gate. `None` until it is open for the first time.
    seen: Mutex<HashMap<i64, Option<String>>>,
    closings: Mutex<Vec<String>>,
}

impl Gates {
    /// Reads the gates forever. A gate never has the same value twice, so a closing between two
    /// reads is seen, too.
    async fn watch(&self, system: &SystemUnderTest) {
        loop {
            let coupons: Vec<i64> = self.seen.lock().keys().copied().collect();
            for coupon in coupons {
                let redis = system.redis();
                let key = redis.own(&format!("{{{coupon}}}:gate"));
                let now = redis.try_command::<Option<String>>(&["GET", &key]).await;
                self.note(coupon, now.ok().flatten().unwrap_or_default());
            }
            pause(50).await;
        }
    }

    fn note(&self, coupon: i64, now: String) {
        let mut seen = self.seen.lock();
        // The coupon is no longer watched.
        let Some(before) = seen.get_mut(&coupon) else {
            return;
        };
        let is_open = now.ends_with(" open");
        match before {
            None if is_open => *before = Some(now),
            Some(open) if *open != now => {
                self.closings
                    .lock()
                    .push(format!("coupon {coupon}: `{open}` became `{now}`"));
                *before = is_open.then_some(now);
            }
            _ => {}
        }
    }
}

/// Runs rounds of traffic for this long.
///
/// # Errors
///
/// Fails if the harness fails.
pub async fn calm(lasts: Duration, out: &Path) -> Result<SeenCalm> {
    std::fs::create_dir_all(out)?;
    let servers = Arc::new(ProxiedServers::start().await?);
    let schedule = FaultSchedule {
        quantity: 60,
        people: 110,
        waiting_list: 30,
        listed: 90,
        relisted: true,
        revoke_percent: 15,
        operators: 2,
        pollers: 4,
        processes: 2,
        crowd_ms: 6_000,
        settings: std::collections::BTreeMap::new(),
        ..FaultSchedule::of(vec![], vec![])
    };
    let system = SystemUnderTest::start(servers, &schedule, &out.join("logs")).await?;
    let gates = Gates::default();
    let mut seen = SeenCalm::default();
    let begun = Instant::now();
    let rounds = async {
        while begun.elapsed() < lasts {
            let schedule = FaultSchedule {
                seed: u64::from(seen.rounds),
                once_per: if seen.rounds.is_multiple_of(2) {
                    "coupon".to_owned()
                } else {
                    "drop".to_owned()
                },
                ..schedule.clone()
            };
            round(&system, &schedule, &gates, out, &mut seen).await?;
            seen.rounds += 1;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = rounds => done?,
        () = gates.watch(&system) => unreachable!("gates are watched forever"),
        () = system.supervise() => unreachable!("processes are supervised forever"),
    }
    let passes = "SELECT COUNT(*) FROM reconcile_runs WHERE status <> 'running'";
    seen.passes = crate::system::number(&system, passes).await?;
    seen.closings = gates.closings.into_inner();
    seen.wrong.extend(system.objections());
    if !seen.is_good() {
        system.world.keep_logs(&out.join("logs"))?;
        std::fs::write(out.join("notes.txt"), crate::verify::notes(&system).await)?;
    }
    Ok(seen)
}

/// Creates coupons, lets users and operators work on them, and judges the result.
async fn round(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
    gates: &Gates,
    out: &Path,
    seen: &mut SeenCalm,
) -> Result<()> {
    let path = out.join(format!("round-{}.jsonl", seen.rounds));
    let recorder = Recorder::create(&path)?;
    let mut coupons = Vec::new();
    for number in 0..COUPONS {
        let allow = (number == 0).then_some("list");
        let coupon = system
            .make_coupon(schedule, allow, "INTERVAL 30 MINUTE")
            .await?;
        announce(&coupon, schedule, &recorder);
        gates.seen.lock().insert(coupon.id, None);
        coupons.push(coupon);
    }
    let clients = Clients::new(system, schedule, coupons.clone(), recorder.clone());
    let operators = Operators::new(system, schedule, &coupons, recorder.clone());
    let traffic = async {
        clients.come().await;
        operators.stop().await;
        for _ in 0..3 {
            clients.the_others_ask_again().await;
            pause(500).await;
        }
    };
    tokio::select! {
        () = traffic => {}
        () = operators.work() => unreachable!("pauses are ended forever"),
        () = clients.poll() => unreachable!("users poll forever"),
    }
    let excuses = Excuses::of(schedule);
    for coupon in &coupons {
        until_issued(system, coupon).await?;
        gates.seen.lock().remove(&coupon.id);
        record_end_of(system, coupon, &recorder, &excuses).await?;
    }
    recorder.finish()?;
    let judgement = check(&History::parse(&std::fs::read_to_string(&path)?)?);
    seen.promises += judgement.figures.promises;
    seen.revoked += judgement.figures.revoked;
    // Free slots may be left, because a round ends before everybody has claimed again.
    let is_left = |violation: &&Violation| violation.rule == Rule::TooFew;
    let wrong = match &judgement.verdict {
        Verdict::Pass => vec![],
        Verdict::Unknown(why) => vec![why.clone()],
        Verdict::Violated(list) => list
            .iter()
            .filter(|violation| !is_left(violation))
            .map(ToString::to_string)
            .collect(),
    };
    if wrong.is_empty() {
        std::fs::remove_file(&path)?;
    }
    let round = seen.rounds;
    seen.wrong.extend(
        wrong
            .into_iter()
            .map(|wrong| format!("round {round}: {wrong}")),
    );
    Ok(())
}

/// Waits until the stores agree about a coupon.
async fn until_issued(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<()> {
    let begun = Instant::now();
    loop {
        let agreed = firstcome_testkit::agreed(&system.world.sql, &system.redis(), coupon).await;
        if agreed.is_ok() || begun.elapsed() > ISSUED {
            return agreed
                .map(drop)
                .context("the stores disagree after a round");
        }
        pause(200).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_an_open_gate_is_a_closing() {
        let gates = Gates::default();
        gates.seen.lock().insert(7, None);
        for now in ["", "s 1 closed", "s 1 open", "s 1 open"] {
            gates.note(7, now.to_owned());
        }
        gates.note(8, "s 1 open".to_owned());
        assert_eq!(gates.closings.lock().len(), 0, "it was not open before");
        gates.note(7, "s 3 open".to_owned());
        assert_eq!(
            gates.closings.lock().len(),
            1,
            "it closed between two reads"
        );
        for now in ["s 4 closed", "s 4 open", String::new().as_str()] {
            gates.note(7, now.to_owned());
        }
        assert_eq!(gates.closings.lock().len(), 3);
    }
}
