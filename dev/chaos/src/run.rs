//! Runs one schedule: faults, recovery, the wait for an exact result, and the judgement.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use firstcome_harness::MadeCoupon;
use firstcome_oracle::{History, RecordedRow, RecordedScope, Recorder, Verdict, check};
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use serde::Serialize;

use crate::clients::{Answered, Clients, Heard};
use crate::excuses::Excuses;
use crate::expect::Evidence;
use crate::facts::{Facts, OlderKeys, believed_until};
use crate::fault::Fault;
use crate::gates::Gates;
use crate::inject::{TriedFault, at_its_time, remove_what_came_back};
use crate::operators::Operators;
use crate::recovery::Recovery;
use crate::schedule::FaultSchedule;
use crate::servers::ProxiedServers;
use crate::shops::Shops;
use crate::system::SystemUnderTest;
use crate::verify;
use crate::wait::{pause, until_time};

/// Time limit from the end of the last fault until everything is exact, as docs/RELIABILITY.md says.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The same limit for a schedule that runs concurrently with other tests.
pub const DEADLINE_BESIDE_TESTS: Duration = Duration::from_secs(180);

/// A request within this time of the change of days may concern either of them.
const DAYS_APART: Duration = Duration::from_secs(1);

/// The name of a schedule's history in its folder.
pub(crate) const HISTORY: &str = "history.jsonl";

/// What a schedule of faults did to the promises that were made during it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScheduleResult {
    pub seed: u64,
    /// The faults, and their effects.
    pub faults: Vec<TriedFault>,
    pub promises: usize,
    pub kept: usize,
    /// Promises that are listed as broken, or as a second claim, if this is excused.
    pub listed: usize,
    /// Requests that were answered with a return or a revocation, including repeated ones.
    pub revoked: usize,
    pub operations: usize,
    pub unknown: usize,
    /// Requests of shops about codes.
    pub uses: usize,
    /// Number of times the rows were read.
    pub reads: usize,
    /// Milliseconds from the end of the last fault until everything was exact. `None` if it never
    /// was.
    pub exact_after_ms: Option<u64>,
    /// Descriptions of the failures. Empty if there are none.
    pub wrong: Vec<String>,
    /// The reasons of the excuses that deviations from an exact result needed.
    pub excused: Vec<&'static str>,
}

/// One run of a schedule.
struct Run<'a> {
    system: &'a SystemUnderTest,
    schedule: &'a FaultSchedule,
    folder: &'a Path,
    /// Time limit from the end of the last fault until everything is exact.
    deadline: Duration,
    recorder: Recorder,
    /// The beginning of the history.
    begun: Instant,
    excuses: Excuses,
    gates: Gates,
    /// Whether the history knows the drops of the second day.
    second_day: AtomicBool,
}

/// Runs a schedule and keeps its history and logs in a folder. It must be exact within `deadline`
/// after the last fault.
///
/// # Errors
///
/// Fails if the machine, a server or the harness fails. The cause may also be in the product, for
/// example a program that does not start.
pub async fn run(
    servers: &Arc<ProxiedServers>,
    schedule: &FaultSchedule,
    folder: &Path,
    deadline: Duration,
) -> Result<ScheduleResult> {
    std::fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(schedule)?;
    std::fs::write(folder.join("schedule.json"), text)?;
    let logs = folder.join("logs");
    let system = SystemUnderTest::start(Arc::clone(servers), schedule, &logs).await;
    let system = &system.context("before the first fault")?;
    let path = folder.join(HISTORY);
    let run = Run {
        system,
        schedule,
        folder,
        deadline,
        recorder: Recorder::create(&path)?,
        begun: Instant::now(),
        excuses: Excuses::of(schedule),
        gates: Gates::default(),
        second_day: AtomicBool::default(),
    };
    // A panic must not end the run before its logs are kept.
    let playing = AssertUnwindSafe(run.play()).catch_unwind();
    let played = tokio::select! {
        played = playing => played.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
        () = system.supervise() => unreachable!("processes are supervised forever"),
        () = run.gates.watch(system), if schedule.faults.is_empty() => {
            unreachable!("gates are watched forever")
        }
    };
    system.world.keep_logs(&logs)?;
    std::fs::write(folder.join("notes.txt"), verify::notes(system).await)?;
    run.recorder.finish()?;
    let history = History::parse(&std::fs::read_to_string(&path)?)?;
    let judgement = check(&history);
    let Played {
        hits,
        exact_after,
        answers,
        uses,
        mut wrong,
    } = played?;
    let facts = Facts {
        owed: verify::owed(system).await?,
        unreadable: verify::is_unreadable(system).await?,
        clock_steps_ms: run.clock_steps_ms(&hits),
        older_keys: run.older_keys(&hits),
        ..Facts::new(&history)
    };
    match &judgement.verdict {
        Verdict::Pass => {}
        Verdict::Unknown(why) => wrong.push(format!("the history proves nothing: {why}")),
        Verdict::Violated(list) => {
            let unexcused = list.iter().filter(|it| !run.excuses.violation(it, &facts));
            wrong.extend(unexcused.map(ToString::to_string));
        }
    }
    wrong.extend(system.objections());
    wrong.extend(run.gates.closings());
    let figures = &judgement.figures;
    let shown = Evidence {
        answers: &answers,
        hits: &hits,
        logs: &logs,
        not_by_consumer: verify::not_by_consumer(system).await?,
    };
    for expect in &schedule.expect {
        let why = expect.missing(&shown);
        wrong.extend(why.map(|why| format!("{expect:?} is not met: {why}")));
    }
    let ran = ScheduleResult {
        seed: schedule.seed,
        faults: hits,
        promises: figures.promises,
        kept: figures.kept,
        listed: figures.broken,
        revoked: figures.revoked,
        operations: figures.operations,
        unknown: figures.unknown,
        uses,
        reads: figures.reads,
        exact_after_ms: exact_after.and_then(|time| time.as_millis().try_into().ok()),
        wrong,
        excused: run.excuses.used(),
    };
    let verdict = format!("{schedule}\n\n{ran:#?}\n\n{judgement}\n");
    std::fs::write(folder.join("verdict.txt"), verdict)?;
    Ok(ran)
}

/// Observations while a schedule ran.
struct Played {
    hits: Vec<TriedFault>,
    /// Time from the end of the last fault. `None` if the result did not become exact.
    exact_after: Option<Duration>,
    answers: Vec<Answered>,
    /// Requests of shops.
    uses: usize,
    wrong: Vec<String>,
}

type Healed = (Vec<TriedFault>, Instant, Result<Instant, String>);

impl Run<'_> {
    /// Runs the faults and the recovery, and waits until everything is exact.
    async fn play(&self) -> Result<Played> {
        for coupon in self.system.coupons() {
            self.drop_is(coupon, self.schedule.quantity.into());
            if verify::has_list(coupon) {
                let listed = self.schedule.listed_people();
                self.recorder.allow_list(id(coupon.id), listed);
            }
        }
        let clients = Clients::new(self.system, self.schedule, self.recorder.clone());
        let operators = Operators::new(self.system, self.schedule, self.recorder.clone());
        // If faults may lose uses, the history omits the requests of shops, because the checkers
        // would report their answers.
        let of_shops = if self.excuses.may_forget_uses() {
            Recorder::new(std::io::sink())
        } else {
            self.recorder.clone()
        };
        let shops = Shops::new(self.system, self.schedule, of_shops);
        let (hits, healed, exact) = tokio::select! {
            ended = self.until_healed_and_exact(&clients, &operators, &shops) => ended?,
            Err(error) = shops.work() => return Err(error.context("a shop")),
            () = operators.work() => unreachable!("pauses are ended forever"),
            () = self.watch_rows() => unreachable!("rows are watched forever"),
            () = clients.poll() => unreachable!("users poll forever"),
            () = self.move_on() => unreachable!("the last day is endless"),
        };
        let mut wrong = Vec::new();
        for closed in self.system.by_end().0 {
            self.recorder.closed(id(closed.drop));
        }
        for coupon in self.system.drops() {
            self.record_end(coupon, &mut wrong).await?;
        }
        let Heard { answers, outside } = clients.into_heard();
        wrong.extend(outside);
        let stray = shops.record_end().await?;
        if stray > 0 && !self.excuses.forgotten_use() {
            wrong.push(format!("{stray} uses have no coupon"));
        }
        let exact_after = match exact {
            Ok(at) => Some(at.saturating_duration_since(healed)),
            Err(why) => {
                wrong.push(format!(
                    "not exact within {:?} after healing: {why}",
                    self.deadline
                ));
                None
            }
        };
        Ok(Played {
            hits,
            exact_after,
            answers,
            uses: shops.requests(),
            wrong,
        })
    }

    /// Records the final rows of a drop, and the promises that are listed as broken.
    async fn record_end(&self, coupon: &MadeCoupon, wrong: &mut Vec<String>) -> Result<()> {
        let listed = verify::listed(self.system, coupon, &self.excuses).await?;
        let (quantity, rows) = self.rows(coupon).await?;
        let people = self.excuses.listed_promises(listed).unwrap_or_else(|why| {
            wrong.push(format!("drop {}: {why}", coupon.drop));
            Vec::new()
        });
        for (person, slot) in &people {
            self.recorder.broken(id(coupon.drop), person, *slot);
        }
        self.drop_is(coupon, quantity);
        self.recorder.finally(id(coupon.drop), rows);
        Ok(())
    }

    /// Records the change of days, once no claim can be admitted to the first one any more. If Redis's
    /// clock is set, that is known only at the end.
    async fn move_on(&self) {
        let (first, second) = self.system.by_end();
        if let Some(at) = self.system.next_day_at {
            let steps = self
                .schedule
                .has(|it| matches!(it, Fault::RedisClock { .. }));
            if !steps {
                until_time(at - DAYS_APART).await;
            }
            for drop in second {
                self.drop_is(drop, self.schedule.quantity.into());
            }
            self.second_day.store(true, Ordering::Relaxed);
            if !steps {
                until_time(at + DAYS_APART).await;
                for drop in first {
                    self.recorder.closed(id(drop.drop));
                }
            }
        }
        std::future::pending::<()>().await;
    }

    fn drop_is(&self, coupon: &MadeCoupon, quantity: u64) {
        let once_per = if coupon.body["once_per"] == "coupon" {
            RecordedScope::Coupon
        } else {
            RecordedScope::Drop
        };
        let (drop, coupon) = (id(coupon.drop), id(coupon.id));
        self.recorder.drop_is(drop, coupon, quantity, once_per);
    }

    async fn until_healed_and_exact(
        &self,
        clients: &Clients<'_>,
        operators: &Operators<'_>,
        shops: &Shops<'_>,
    ) -> Result<Healed> {
        let broken = async {
            let faults = self.schedule.faults.iter();
            let faults = faults.map(|it| at_its_time(self.system, it, self.begun, self.folder));
            let faults = try_join_all(faults);
            let (hits, ()) = tokio::join!(faults, operators.until_people_came());
            self.system.servers.heal().await?;
            remove_what_came_back(self.system).await?;
            tokio::join!(operators.stop(), shops.stop());
            anyhow::Ok((hits?, Instant::now()))
        };
        // Users who have no answer after the recovery keep claiming until the deadline.
        let limit = Duration::from_millis(self.schedule.ends_ms()) + self.deadline;
        let (answered, broken) = tokio::join!(tokio::time::timeout(limit, clients.come()), broken);
        let (hits, healed) = broken?;
        let faults = self.schedule.faults.iter().zip(&hits);
        let took = faults.filter(|(_, hit)| hit.took);
        let took: Vec<&Fault> = took.map(|(timed, _)| &timed.fault).collect();
        self.excuses.keep_after(&took);
        let exact = match answered {
            Ok(()) => {
                let recovery = Recovery {
                    system: self.system,
                    schedule: self.schedule,
                    excuses: &self.excuses,
                    clients,
                    limit: self.deadline,
                };
                recovery.until_exact(healed).await
            }
            Err(_) => Err("some users got no answer".to_owned()),
        };
        Ok((hits, healed, exact))
    }

    /// Returns the times at which Redis's clock was set, in milliseconds of the history.
    fn clock_steps_ms(&self, hits: &[TriedFault]) -> Vec<u64> {
        let faults = self.schedule.faults.iter().zip(hits);
        let steps = faults.filter(|(timed, _)| matches!(timed.fault, Fault::RedisClock { .. }));
        steps
            .flat_map(|(_, hit)| [hit.during.start, hit.during.end])
            .map(|at| self.ms(at))
            .collect()
    }

    /// Returns the periods in which older keys of a coupon may have been believed.
    fn older_keys(&self, hits: &[TriedFault]) -> Vec<OlderKeys> {
        let faults = || self.schedule.faults.iter().zip(hits);
        let restored =
            faults().filter(|(timed, _)| matches!(timed.fault, Fault::RestoredKeys { .. }));
        let periods = restored.map(|(timed, hit)| {
            let active = faults().map(|(other, hit)| (&other.fault, &hit.during));
            let end = believed_until(&hit.during, active);
            let drops = self.system.drops();
            OlderKeys {
                coupon: id(drops[timed.coupon % drops.len()].id),
                during_ms: self.ms(hit.during.start)..=self.ms(end),
            }
        });
        periods.collect()
    }

    /// Returns a time in milliseconds of the history.
    fn ms(&self, at: Instant) -> u64 {
        let ms = at.saturating_duration_since(self.begun).as_millis();
        u64::try_from(ms).unwrap_or(u64::MAX)
    }

    /// Keeps recording all rows.
    async fn watch_rows(&self) {
        loop {
            let is_known = self.second_day.load(Ordering::Relaxed);
            let known = if is_known {
                self.system.drops()
            } else {
                self.system.coupons()
            };
            for coupon in known {
                if let Ok((quantity, rows)) = self.rows(coupon).await {
                    self.drop_is(coupon, quantity);
                    self.recorder.read(id(coupon.drop), rows);
                }
            }
            pause(400).await;
        }
    }

    /// Reads a drop's quantity and its rows in one snapshot.
    async fn rows(&self, coupon: &MadeCoupon) -> Result<(u64, Vec<RecordedRow>)> {
        let both = format!(
            "SELECT d.quantity, i.slot, i.user_id FROM drops d LEFT JOIN issued_coupons i ON i.drop_id = d.id WHERE d.id = {}",
            coupon.drop
        );
        let began = Instant::now();
        let found = loop {
            let found = self.system.world.sql.rows(&both).await?;
            if !found.is_empty() {
                break found;
            }
            // A job of a reconciler recreates a lost row of `drops`.
            ensure!(began.elapsed() < self.deadline, "the drop is gone");
            pause(200).await;
        };
        let quantity = found[0][0].parse()?;
        let rows = found.into_iter().filter(|row| row[1] != "NULL");
        let rows = rows.map(|mut row| {
            let slot = row[1].parse()?;
            let person = row.swap_remove(2);
            Ok(RecordedRow { slot, person })
        });
        Ok((quantity, rows.collect::<Result<_>>()?))
    }
}

fn id(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// Returns the message of a panic as an error.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!("panicked: {}", text.unwrap_or_default())
}
