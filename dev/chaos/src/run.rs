//! Runs one schedule: faults, recovery, the wait for an exact result, and the judgement.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_testkit::MadeCoupon;
use firstcome_testkit::histories::{
    Figures, History, RecordedRow, RecordedScope, Recorder, Verdict, check,
};
use serde::Serialize;

use crate::clients::Clients;
use crate::evidence::{Answered, Evidence, TriedFault};
use crate::excuses::Excuses;
use crate::inject::{Effect, inject, remove_what_came_back};
use crate::operators::{self, Operators};
use crate::schedule::{FaultSchedule, Timed};
use crate::servers::ProxiedServers;
use crate::system::SystemUnderTest;
use crate::verify;
use crate::wait::pause;

/// Time limit from the end of the last fault until everything is exact.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Interval at which the rows are read during faults.
const READ_EVERY: Duration = Duration::from_millis(250);

/// The result of a schedule.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ScheduleResult {
    pub seed: u64,
    /// The faults, and their effects.
    pub faults: Vec<TriedFault>,
    pub promises: usize,
    pub kept: usize,
    /// Promises listed as broken or as moved to another slot.
    pub listed: usize,
    /// Claims that were returned or revoked.
    #[serde(default)]
    pub revoked: usize,
    pub operations: usize,
    pub unknown: usize,
    /// Number of times the rows were read.
    pub reads: usize,
    /// Milliseconds from the end of the last fault until everything was exact. `None` if it never
    /// was.
    pub exact_after_ms: Option<u64>,
    /// Descriptions of the failures. Empty if there are none.
    pub wrong: Vec<String>,
    /// The rules that excuse deviations from an exact result.
    pub excused: Vec<&'static str>,
}

/// Runs a schedule and keeps its history and logs in a folder.
///
/// # Errors
///
/// Fails if the machine or a server fails. Such a run proves nothing about the product.
pub async fn run(
    servers: &Arc<ProxiedServers>,
    schedule: &FaultSchedule,
    folder: &Path,
) -> Result<ScheduleResult> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(
        folder.join("schedule.json"),
        serde_json::to_string_pretty(schedule)?,
    )?;
    let logs = folder.join("logs");
    let system = SystemUnderTest::start(Arc::clone(servers), schedule, &logs)
        .await
        .context("before the first fault")?;
    let path = folder.join("history.jsonl");
    let recorder = Recorder::create(&path)?;
    for coupon in system.coupons() {
        announce(coupon, schedule, &recorder);
    }
    let excuses = Excuses::of(schedule);
    let played = tokio::select! {
        played = play(&system, schedule, &recorder, &excuses) => played,
        () = system.supervise() => unreachable!("processes are supervised forever"),
    };
    system.world.keep_logs(&logs)?;
    std::fs::write(folder.join("notes.txt"), verify::notes(&system).await)?;
    let owed = verify::owed(&system).await?;
    let Played {
        hits,
        exact_after,
        answers,
        mut wrong,
    } = played?;
    recorder.finish()?;
    let judgement = check(&History::parse(&std::fs::read_to_string(&path)?)?);
    match &judgement.verdict {
        Verdict::Pass => {}
        Verdict::Unknown(why) => wrong.push(format!("the history proves nothing: {why}")),
        Verdict::Violated(list) => {
            let unexcused = list
                .iter()
                .filter(|violation| !excuses.violation(violation, &owed));
            wrong.extend(unexcused.map(ToString::to_string));
        }
    }
    wrong.extend(system.objections());
    // No fault destroys every copy of a promise, so none may be broken.
    if judgement.figures.broken > 0 && !excuses.listed_promise() {
        wrong.push(format!(
            "{} promises were broken, though listed",
            judgement.figures.broken
        ));
    }
    let not_by_consumer = verify::not_by_consumer(&system).await?;
    let shown = Evidence {
        answers: &answers,
        hits: &hits,
        logs: &logs,
        not_by_consumer,
    };
    wrong.extend(
        schedule
            .expect
            .iter()
            .filter_map(|expect| expect.missing(&shown)),
    );
    let exact_after_ms =
        exact_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let ran = ScheduleResult {
        seed: schedule.seed,
        faults: hits,
        exact_after_ms,
        wrong,
        excused: excuses.used(),
        ..of_figures(&judgement.figures)
    };
    std::fs::write(
        folder.join("verdict.txt"),
        format!("{schedule}\n\n{ran:#?}\n\n{judgement}\n"),
    )?;
    Ok(ran)
}

/// Records a coupon's drop and its allow list.
pub(crate) fn announce(coupon: &MadeCoupon, schedule: &FaultSchedule, recorder: &Recorder) {
    is_now(coupon, schedule.quantity.into(), recorder);
    if verify::has_list(coupon) {
        recorder.allow_list(id(coupon.id), schedule.listed_people());
    }
}

fn is_now(coupon: &MadeCoupon, quantity: u64, recorder: &Recorder) {
    let once_per = if coupon.body["once_per"] == "coupon" {
        RecordedScope::Coupon
    } else {
        RecordedScope::Drop
    };
    recorder.drop_is(id(coupon.drop), id(coupon.id), quantity, once_per);
}

fn of_figures(figures: &Figures) -> ScheduleResult {
    ScheduleResult {
        promises: figures.promises,
        kept: figures.kept,
        listed: figures.broken,
        revoked: figures.revoked,
        operations: figures.operations,
        unknown: figures.unknown,
        reads: figures.reads,
        ..ScheduleResult::default()
    }
}

/// Observations while a schedule ran.
struct Played {
    hits: Vec<TriedFault>,
    /// Time from the end of the last fault. `None` if the result did not become exact.
    exact_after: Option<Duration>,
    answers: Vec<Answered>,
    wrong: Vec<String>,
}

/// Runs the faults and the recovery, and waits until everything is exact.
async fn play(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
    recorder: &Recorder,
    excuses: &Excuses,
) -> Result<Played> {
    let clients = Clients::new(
        system,
        schedule,
        system.coupons().to_vec(),
        recorder.clone(),
    );
    let operators = Operators::new(system, schedule, system.coupons(), recorder.clone());
    let (hits, healed, exact) = tokio::select! {
        ended = until_healed_and_exact(system, schedule, &clients, &operators, excuses) => ended?,
        () = operators.work() => unreachable!("pauses are ended forever"),
        () = watch_rows(system, recorder) => unreachable!("rows are watched forever"),
        () = clients.poll() => unreachable!("users poll forever"),
    };
    let mut listed = HashSet::new();
    for (number, coupon) in system.coupons().iter().enumerate() {
        let people = record_end_of(system, coupon, recorder, excuses).await?;
        listed.extend(people.into_iter().map(|person| (number, person)));
    }
    let (answers, mut wrong) = clients.into_answers(&listed, excuses);
    let exact_after = exact
        .as_ref()
        .ok()
        .map(|at| at.saturating_duration_since(healed));
    wrong.extend(
        exact
            .err()
            .map(|why| format!("not exact within {DEADLINE:?} after healing: {why}")),
    );
    Ok(Played {
        hits,
        exact_after,
        answers,
        wrong,
    })
}

type Healed = (
    Vec<TriedFault>,
    Instant,
    std::result::Result<Instant, String>,
);

async fn until_healed_and_exact(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
    clients: &Clients<'_>,
    operators: &Operators<'_>,
    excuses: &Excuses,
) -> Result<Healed> {
    let broken = async {
        let faults = futures_util::future::try_join_all(
            schedule
                .faults
                .iter()
                .map(|timed| at_its_time(system, timed)),
        );
        let (hits, ()) = tokio::join!(faults, operators.until_people_came());
        system.heal().await?;
        remove_what_came_back(system).await?;
        operators.stop().await;
        anyhow::Ok((hits?, Instant::now()))
    };
    // Users who have no answer after the recovery keep claiming until the deadline.
    let answered = async {
        let patience = tokio::time::sleep(Duration::from_millis(schedule.ends_ms()) + DEADLINE);
        tokio::select! { () = clients.come() => true, () = patience => false }
    };
    let (answered, broken) = tokio::join!(answered, broken);
    let (hits, healed) = broken?;
    if !answered {
        return Ok((hits, healed, Err("some users got no answer".to_owned())));
    }
    let exact = until_exact(system, clients, healed, excuses).await;
    Ok((hits, healed, exact))
}

/// Keeps recording all rows.
async fn watch_rows(system: &SystemUnderTest, recorder: &Recorder) {
    loop {
        for coupon in system.coupons() {
            if let Ok((quantity, rows)) = rows(system, coupon).await {
                is_now(coupon, quantity, recorder);
                recorder.read(id(coupon.drop), rows);
            }
        }
        tokio::time::sleep(READ_EVERY).await;
    }
}

async fn at_its_time(system: &SystemUnderTest, timed: &Timed) -> Result<TriedFault> {
    pause(timed.at_ms).await;
    let Effect { took, note, during } = inject(system, &timed.fault, timed.coupon)
        .await
        .with_context(|| format!("{}", timed.fault))?;
    let fault = format!("{:>5} ms  {}", timed.at_ms, timed.fault);
    Ok(TriedFault {
        name: timed.fault.name(),
        fault,
        took,
        note,
        during,
    })
}

pub(crate) fn id(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// Reads a drop's quantity and its rows in one snapshot.
async fn rows(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<(u64, Vec<RecordedRow>)> {
    let both = format!(
        "SELECT d.quantity, i.slot, i.user_id FROM drops d LEFT JOIN issued_coupons i ON i.drop_id = d.id WHERE d.id = {}",
        coupon.drop
    );
    let began = Instant::now();
    let found = loop {
        let found = system.world.sql.rows(&both).await?;
        if !found.is_empty() {
            break found;
        }
        // A lost row of `drops` is made again by the jobs of a reconciler.
        ensure!(began.elapsed() < DEADLINE, "the drop is gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let quantity = found[0][0].parse()?;
    let rows = found.into_iter().filter(|row| row[1] != "NULL");
    let rows = rows.map(|mut row| {
        Ok(RecordedRow {
            slot: row[1].parse()?,
            person: row.swap_remove(2),
        })
    });
    Ok((quantity, rows.collect::<Result<_>>()?))
}

/// Waits until the stores agree, every user has an answer, and a pass that begins afterwards finds
/// nothing. Repairs above the limit are confirmed meanwhile, as an operator would.
async fn until_exact(
    system: &SystemUnderTest,
    clients: &Clients<'_>,
    healed: Instant,
    excuses: &Excuses,
) -> std::result::Result<Instant, String> {
    let mut why = String::new();
    while healed.elapsed() < DEADLINE {
        match verify::exact(system, excuses).await {
            Ok(()) => {
                let at = Instant::now();
                // Retries are always safe: every user gets the same answer as before, and a pass
                // finds nothing to repair.
                if !clients.all_ask_again().await {
                    "a user who claimed again got no answer".clone_into(&mut why);
                } else if let Err(left) = verify::clean(system, healed + DEADLINE, excuses).await {
                    why = left;
                } else if let Err(late) = verify::exact(system, excuses).await {
                    // A late change of the allow list may have admitted a user who claimed again.
                    why = late.to_string();
                } else {
                    return Ok(at);
                }
            }
            Err(not_yet) => why = not_yet.to_string(),
        }
        match verify::waits_for_person(system).await {
            Ok(true) => drop(operators::confirm(system).await),
            Ok(false) => {}
            Err(error) => why = error.to_string(),
        }
        // A freed slot goes to the next user who claims.
        clients.the_others_ask_again().await;
        pause(200).await;
    }
    Err(why)
}

/// Records the final rows of a drop and the users whom the system lists. Returns these users.
pub(crate) async fn record_end_of(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    recorder: &Recorder,
    excuses: &Excuses,
) -> Result<Vec<String>> {
    let listed = verify::listed(system, coupon, excuses).await?;
    let (quantity, rows) = rows(system, coupon).await?;
    for (person, slot) in &listed {
        recorder.broken(id(coupon.drop), person, *slot);
    }
    is_now(coupon, quantity, recorder);
    recorder.finally(id(coupon.drop), rows);
    Ok(listed.into_iter().map(|(person, _)| person).collect())
}
