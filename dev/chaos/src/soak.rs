//! A long run in which coupons are created, sold, closed and sealed while faults come and go. The
//! use of resources must not grow, and every coupon is judged like those of a schedule.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use firstcome_testkit::MadeCoupon;
use firstcome_testkit::histories::{History, Recorder, Verdict, check};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rand::seq::IndexedRandom as _;

use crate::clients::Clients;
use crate::excuses::Excuses;
use crate::fault::{Fault, FaultyStore, ProcessRole, WireFault};
use crate::inject::inject;
use crate::resources::Resources;
use crate::run::{announce, record_end_of};
use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::tested::TestedServers;
use crate::wait::pause;

/// Interval between new coupons.
const COUPON_EVERY: Duration = Duration::from_secs(10);
/// Period for which a coupon is open.
const OPEN_FOR: Duration = Duration::from_secs(45);
/// Period in which users claim a coupon.
const ASKED_FOR: Duration = Duration::from_secs(40);
/// Interval at which resources are read.
const GAUGES_EVERY: Duration = Duration::from_secs(10);
/// Pause between two faults.
const FAULT_PAUSE_MS: u64 = 8_000;
/// Time limit until a closed coupon is verified as exact and sealed.
const SEALED_WITHIN: Duration = Duration::from_secs(90);

/// The schedule of the soak.
#[derive(Clone, Copy)]
struct Span {
    begun: Instant,
    lasts: Duration,
}

impl Span {
    fn left(self) -> Duration {
        self.lasts.saturating_sub(self.begun.elapsed())
    }
}

#[derive(Default)]
struct SoakTally {
    coupons: AtomicU64,
    promises: AtomicU64,
    listed: AtomicU64,
    faults: AtomicU64,
    wrong: AtomicU64,
}

/// Runs for this many minutes, prints the resources in use, and returns whether everything passed.
pub async fn soak(minutes: u64, out: &Path) -> Result<bool> {
    std::fs::create_dir_all(out)?;
    let servers = Arc::new(TestedServers::start(false).await?);
    // Short retention, so that half an hour is long enough for deletions.
    let settings = [
        ("FIRSTCOME_TEST_CLEAN_RUNS_KEPT_SECONDS", "120"),
        ("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "60"),
    ];
    let settings = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let drawn = FaultSchedule::draw(0);
    let schedule = FaultSchedule {
        coupons: 1,
        quantity: 100,
        people: 160,
        crowd_ms: 12_000,
        faults: vec![],
        settings,
        ..drawn
    };
    let system = SystemUnderTest::start(Arc::clone(&servers), &schedule, &out.join("logs")).await?;
    let tally = SoakTally::default();
    let mut resources = Resources::default();
    let span = Span {
        begun: Instant::now(),
        lasts: Duration::from_secs(minutes * 60),
    };
    let all = async {
        tokio::join!(
            traffic(&system, &schedule, &tally, out, span),
            trouble(&system, &tally, span),
            watch(&system, &tally, &mut resources, span)
        )
    };
    tokio::select! {
        (traffic, trouble, ()) = all => { traffic?; trouble?; }
        () = system.supervise() => unreachable!("processes are supervised forever"),
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!("\n{resources}");
    println!(
        "{minutes} minutes, {} looks: {} coupons judged, {} promises ({} listed as broken), {} faults took effect, {} coupons wrong",
        resources.looks(),
        count(&tally.coupons),
        count(&tally.promises),
        count(&tally.listed),
        count(&tally.faults),
        count(&tally.wrong)
    );
    std::fs::write(
        out.join("resources.json"),
        serde_json::to_string_pretty(&resources)?,
    )?;
    let grown = resources.grown();
    let good = grown.is_empty()
        && count(&tally.wrong) == 0
        && count(&tally.promises) > 0
        && resources.looks() >= 8;
    println!(
        "{}",
        if good {
            "nothing grew, every promise was kept".to_owned()
        } else {
            format!("FAILED; grew: {grown:?}")
        }
    );
    if !good {
        system.world.keep_logs(&out.join("logs"))?;
    }
    Ok(good)
}

async fn traffic(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
    tally: &SoakTally,
    out: &Path,
    span: Span,
) -> Result<()> {
    let mut under_way = FuturesUnordered::new();
    let mut number = 0_u64;
    // Create a coupon only if there is time to seal it before the end.
    let more = || span.left() > OPEN_FOR + SEALED_WITHIN;
    let mut tick = tokio::time::interval(COUPON_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick(), if more() => {
                number += 1;
                under_way.push(one_coupon(system, schedule, tally, out, number));
            }
            Some(done) = under_way.next(), if !under_way.is_empty() => done?,
            () = tokio::time::sleep(Duration::from_secs(1)), if under_way.is_empty() => {
                if !more() {
                    return Ok(());
                }
            }
        }
    }
}

async fn one_coupon(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
    tally: &SoakTally,
    out: &Path,
    number: u64,
) -> Result<()> {
    let Some(coupon) = make(system, schedule).await else {
        return Ok(());
    };
    let path = out.join(format!("coupon-{number}.jsonl"));
    let recorder = Recorder::create(&path)?;
    announce(&coupon, schedule, &recorder);
    let schedule = FaultSchedule {
        seed: number,
        ..schedule.clone()
    };
    let clients = Clients::new(system, &schedule, vec![coupon.clone()], recorder.clone());
    let _ = tokio::time::timeout(ASKED_FOR, async {
        clients.come().await;
        // A freed slot goes to the next user who claims.
        loop {
            pause(5_000).await;
            clients.the_others_ask_again().await;
        }
    })
    .await;
    let sealed = until_sealed(system, &coupon).await;
    while record_end_of(system, &coupon, &recorder, &Excuses::of(&schedule))
        .await
        .is_err()
    {
        pause(500).await;
    }
    recorder.finish()?;
    let judgement = check(&History::parse(&std::fs::read_to_string(&path)?)?);
    tally.coupons.fetch_add(1, Ordering::Relaxed);
    tally
        .promises
        .fetch_add(judgement.figures.promises as u64, Ordering::Relaxed);
    tally
        .listed
        .fetch_add(judgement.figures.broken as u64, Ordering::Relaxed);
    if judgement.verdict == Verdict::Pass && sealed {
        std::fs::remove_file(&path)?;
    } else {
        tally.wrong.fetch_add(1, Ordering::Relaxed);
        println!(
            "coupon {number} (drop {}), sealed: {sealed}: {judgement}\n  kept in {}",
            coupon.drop,
            path.display()
        );
    }
    Ok(())
}

/// Creates a coupon as soon as possible. Returns `None` if every attempt fails.
async fn make(system: &SystemUnderTest, schedule: &FaultSchedule) -> Option<MadeCoupon> {
    for _ in 0..20 {
        if let Ok(coupon) = system
            .make_coupon(schedule, None, "INTERVAL 45 SECOND")
            .await
        {
            return Some(coupon);
        }
        pause(500).await;
    }
    None
}

async fn until_sealed(system: &SystemUnderTest, coupon: &MadeCoupon) -> bool {
    let begun = Instant::now();
    let sql = format!(
        "SELECT sealed_at IS NOT NULL FROM drops WHERE id = {}",
        coupon.drop
    );
    while begun.elapsed() < SEALED_WITHIN {
        if system
            .world
            .sql
            .rows(&sql)
            .await
            .is_ok_and(|rows| rows[0][0] == "1")
        {
            return true;
        }
        pause(500).await;
    }
    false
}

/// Injects one fault after the other. Never kills the first process of each kind, because that
/// process shows leaks.
async fn trouble(system: &SystemUnderTest, tally: &SoakTally, span: Span) -> Result<()> {
    while span.left() > SEALED_WITHIN + Duration::from_secs(10) {
        pause(FAULT_PAUSE_MS).await;
        let fault = draw();
        let effect = inject(system, &fault, 0).await?;
        tally
            .faults
            .fetch_add(u64::from(effect.took), Ordering::Relaxed);
    }
    system.heal().await
}

fn draw() -> Fault {
    let mut rng = rand::rng();
    let role = *ProcessRole::ALL
        .choose(&mut rng)
        .unwrap_or(&ProcessRole::Api);
    let store = *FaultyStore::ALL
        .choose(&mut rng)
        .unwrap_or(&FaultyStore::Redis);
    let wires = [
        WireFault::Delay,
        WireFault::Cut,
        WireFault::BlackHole,
        WireFault::DropReplies,
        WireFault::HalfClose,
    ];
    let wire = *wires.choose(&mut rng).unwrap_or(&WireFault::Cut);
    let ms = 1_500;
    let all = [
        Fault::Kill {
            role,
            number: 1,
            ms,
        },
        Fault::Freeze {
            role,
            number: 0,
            ms,
        },
        Fault::KillServer { store, ms },
        Fault::FreezeServer { store, ms },
        Fault::Wire { store, wire, ms },
        Fault::Wire { store, wire, ms },
        Fault::Silent {
            store,
            process: false,
            ms: ms + 5_000,
        },
        Fault::Demotion { lag_ms: ms },
        Fault::MysqlTableHangs { ms },
        Fault::OldCopy { age_ms: ms },
        Fault::Flush,
        Fault::MysqlReadOnly { ms },
    ];
    all.choose(&mut rng).cloned().unwrap_or(Fault::Flush)
}

async fn watch(system: &SystemUnderTest, tally: &SoakTally, resources: &mut Resources, span: Span) {
    let mut looks = 0_u64;
    while !span.left().is_zero() {
        tokio::time::sleep(GAUGES_EVERY).await;
        resources.read(system).await;
        looks += 1;
        if looks.is_multiple_of(12) {
            let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
            println!(
                "{} min: {} coupons judged, {} promises, {} faults, {} wrong",
                looks * GAUGES_EVERY.as_secs() / 60,
                count(&tally.coupons),
                count(&tally.promises),
                count(&tally.faults),
                count(&tally.wrong)
            );
        }
    }
}
