//! One schedule from begin to judgement: faults on, healed, exact, judged.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_histories::{Figures, History, OncePer, Recorder, Row, Verdict, check};
use serde::Serialize;

use crate::crowd::Crowd;
use crate::ground::Ground;
use crate::inflict::{Effect, inflict, pause};
use crate::schedule::{Schedule, Timed};
use crate::stage::{Drop, Stage};
use crate::truth;

/// After the last fault is over, everything must be exact within this time.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often rows are read while faults are on.
const LOOK: Duration = Duration::from_millis(250);

/// What came of a schedule.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Ran {
    pub seed: u64,
    /// Names of the faults with whether each took effect, and how.
    pub faults: Vec<Hit>,
    pub promises: usize,
    pub kept: usize,
    /// Of these, listed as broken or as moved to another slot.
    pub listed: usize,
    pub operations: usize,
    pub unknown: usize,
    /// Looks at the rows.
    pub reads: usize,
    /// From the end of the last fault to exact, milliseconds; none when it did not become so.
    pub exact_after_ms: Option<u64>,
    /// What is wrong, in words; nothing when all is well.
    pub wrong: Vec<String>,
}

/// A fault that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Hit {
    pub name: String,
    /// When and how long, as text.
    pub fault: String,
    /// Whether it took effect.
    pub took: bool,
    pub note: String,
}

/// Runs a schedule and keeps its history and logs in a folder.
///
/// # Errors
/// When the machine or a server failed, not the product: nothing is shown then.
pub async fn run(ground: &Arc<Ground>, schedule: &Schedule, folder: &Path) -> Result<Ran> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("schedule.json"), serde_json::to_string_pretty(schedule)?)?;
    let stage = Stage::set(Arc::clone(ground), schedule, &[]).await.context("before the first fault")?;
    let path = folder.join("history.jsonl");
    let recorder = Recorder::create(&path)?;
    let once_per = if schedule.once_per == "coupon" { OncePer::Coupon } else { OncePer::Drop };
    for drop in stage.drops() {
        recorder.drop_is(id(drop.id), id(drop.coupon), u64::from(schedule.quantity), once_per);
    }
    let played = tokio::select! {
        played = play(&stage, schedule, &recorder) => played,
        () = stage.look_after() => unreachable!("processes are looked after for ever"),
    };
    stage.world.keep_logs(&folder.join("logs"))?;
    std::fs::write(folder.join("notes.txt"), truth::notes(&stage).await)?;
    let (faults, exact_after, why_not) = played?;
    recorder.finish()?;
    let history = History::parse(&std::fs::read_to_string(&path)?)?;
    let judgement = check(&history);
    let mut ran = Ran { seed: schedule.seed, faults, ..of_figures(&judgement.figures) };
    ran.exact_after_ms = exact_after.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    ran.wrong.extend(why_not);
    match &judgement.verdict {
        Verdict::Pass => {}
        Verdict::Unknown(why) => ran.wrong.push(format!("nothing is shown: {why}")),
        Verdict::Violated(list) => ran.wrong.extend(list.iter().map(ToString::to_string)),
    }
    if schedule.faults.len() == 1 && ran.listed > 0 {
        ran.wrong.push(format!("a single fault broke {} promises", ran.listed));
    }
    std::fs::write(folder.join("verdict.txt"), format!("{schedule}\n\n{ran:#?}\n\n{judgement}\n"))?;
    Ok(ran)
}

fn of_figures(figures: &Figures) -> Ran {
    Ran {
        promises: figures.promises,
        kept: figures.kept,
        listed: figures.broken,
        operations: figures.operations,
        unknown: figures.unknown,
        reads: figures.reads,
        ..Ran::default()
    }
}

type Played = (Vec<Hit>, Option<Duration>, Option<String>);

/// Faults, healing, and the wait until everything is exact.
async fn play(stage: &Stage, schedule: &Schedule, recorder: &Recorder) -> Result<Played> {
    let crowd = Crowd::new(stage, stage.drops().to_vec(), recorder.clone())?;
    let broken = async {
        let faults = futures_util::future::try_join_all(schedule.faults.iter().map(|timed| at_its_time(stage, timed)));
        let hits = faults.await?;
        stage.heal().await?;
        anyhow::Ok((hits, Instant::now()))
    };
    let watched = async {
        loop {
            for drop in stage.drops() {
                if let Ok(rows) = rows(stage, *drop).await {
                    recorder.read(id(drop.id), rows);
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let both = async {
        // Whoever still has no answer when everything has healed goes on asking, for as long as they may.
        let answered = async {
            let patience = tokio::time::sleep(Duration::from_millis(schedule.ends_ms()) + DEADLINE);
            tokio::select! { () = crowd.come(schedule) => true, () = patience => false }
        };
        let (answered, broken) = tokio::join!(answered, broken);
        let (hits, healed) = broken?;
        if !answered {
            return anyhow::Ok((hits, healed, Err("some people were not answered".to_owned())));
        }
        let exact = until_exact(stage, schedule, &crowd, healed).await;
        Ok((hits, healed, exact))
    };
    let (hits, healed, exact) = tokio::select! {
        ended = both => ended?,
        () = watched => unreachable!("rows are watched for ever"),
    };
    drop(crowd);
    record_the_end(stage, recorder).await?;
    Ok(match exact {
        Ok(at) => (hits, Some(at.saturating_duration_since(healed)), None),
        Err(why) => (hits, None, Some(format!("not exact within {DEADLINE:?} after healing: {why}"))),
    })
}

async fn at_its_time(stage: &Stage, timed: &Timed) -> Result<Hit> {
    pause(timed.at_ms).await;
    let Effect { took, note } = inflict(stage, &timed.fault).await.with_context(|| format!("{}", timed.fault))?;
    Ok(Hit { name: timed.fault.name(), fault: format!("{:>5} ms  {}", timed.at_ms, timed.fault), took, note })
}

pub(crate) fn id(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

pub(crate) async fn rows(stage: &Stage, drop: Drop) -> Result<Vec<Row>> {
    let sql = format!("SELECT slot, user_id FROM $db.issued_coupons WHERE drop_id = {}", drop.id);
    let rows = stage.sql(&sql).await?;
    rows.into_iter().map(|row| Ok(Row { slot: row[0].parse()?, person: row[1].clone() })).collect()
}

/// Waits until stores agree, everybody was answered, and a pass that began after that found nothing.
async fn until_exact(
    stage: &Stage,
    schedule: &Schedule,
    crowd: &Crowd<'_>,
    healed: Instant,
) -> std::result::Result<Instant, String> {
    let mut why = String::new();
    while healed.elapsed() < DEADLINE {
        match truth::exact(stage, schedule.quantity).await {
            Ok(()) => {
                let at = Instant::now();
                // A retry is always safe: everyone hears the same as before, and a look finds nothing to do.
                if !crowd.all_ask_again(schedule.people).await {
                    "somebody who asked again was not answered".clone_into(&mut why);
                } else if let Err(left) = truth::clean(stage, healed + DEADLINE).await {
                    why = left;
                } else {
                    return Ok(at);
                }
            }
            Err(not_yet) => why = not_yet.to_string(),
        }
        // A slot that came free goes to whoever asks next.
        crowd.the_others_ask_again(schedule.people).await;
        pause(200).await;
    }
    Err(why)
}

async fn record_the_end(stage: &Stage, recorder: &Recorder) -> Result<()> {
    for drop in stage.drops() {
        record_end_of(stage, *drop, recorder).await?;
    }
    Ok(())
}

/// Records what the tables hold of a drop in the end, and whom the system lists.
pub(crate) async fn record_end_of(stage: &Stage, drop: Drop, recorder: &Recorder) -> Result<()> {
    for (person, slot) in truth::listed(stage, drop).await? {
        recorder.broken(id(drop.id), &person, slot);
    }
    recorder.finally(id(drop.id), rows(stage, drop).await?);
    Ok(())
}
