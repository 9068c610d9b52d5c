//! The clock of one of our processes steps by two hours, forwards and back, while people come. Ages and windows are told by
//! Redis's clock, so nothing may come of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_testkit::{Http, Stores, eventually};
use serde_json::{Value, json};

use super::scene::{HEALED, Scene, impatient};

/// Seconds that a clock is off by, first and last; an hour the other way in between.
const BEHIND: i64 = -3_600;

/// A clock that the test sets.
struct Clock(tempfile::TempDir);

impl Clock {
    fn new() -> Self {
        let clock = Self(tempfile::tempdir().unwrap());
        let source = clock.0.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(clock.library()).arg(source).arg("-ldl");
        assert!(cc.status().unwrap().success(), "{cc:?}");
        clock.is_off_by(BEHIND);
        clock
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("libclock.so")
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// From now on, in seconds.
    fn is_off_by(&self, seconds: i64) {
        let file = File::options().create(true).truncate(false).write(true).open(self.file()).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// What makes a process go by it.
    fn env(&self) -> [(&'static str, String); 2] {
        let word = |path: PathBuf| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", word(self.library())), ("FIRSTCOME_TEST_CLOCK", word(self.file()))]
    }

    /// Forwards, then back. (It is sure to go by this clock after the first step; after the second, hyper's dates are no
    /// proof, since it writes none earlier than it has written.)
    async fn steps(&self, process: &Http, mut after_each: impl AsyncFnMut(i64)) {
        self.shows(BEHIND, process).await;
        for offset in [-BEHIND, BEHIND] {
            self.is_off_by(offset);
            if offset > 0 {
                self.shows(offset, process).await;
            }
            after_each(offset).await;
        }
    }

    async fn shows(&self, seconds: i64, process: &Http) {
        eventually("the process goes by this clock", HEALED, async || {
            let told = process.get("/healthz").await.headers;
            let told = DateTime::parse_from_rfc2822(told["date"].to_str().unwrap()).unwrap();
            (told.timestamp() - Utc::now().timestamp() - seconds).abs() < 60
        })
        .await;
    }
}

fn words<'a>(env: &'a [(&'static str, String); 2]) -> Vec<(&'a str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// What opened half an hour ago is open, whatever the API's clock says.
fn opened_lately() -> Value {
    let (opens, closes) = (Utc::now() - TimeDelta::minutes(30), Utc::now() + TimeDelta::minutes(30));
    json!({
        "name": "Lately", "quantity": 5, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": opens.to_rfc3339(), "closes_at": closes.to_rfc3339()},
    })
}

#[tokio::test]
async fn clock_steps_of_an_api_break_no_promise() {
    let clock = Clock::new();
    let mut scene = Scene::begin(impatient(Stores::shared().await, "clock-api").await).await;
    let lately = scene.api.create_coupon(&opened_lately()).await;
    scene.api = scene.world.serve_with(&words(&clock.env())).await;
    scene
        .survives(async |scene| {
            let process = scene.api.http().clone();
            clock
                .steps(&process, async |offset| {
                    assert_eq!(scene.wave().await, [("accepted".into(), 20)].into());
                    let answer = scene.api.claim(lately.id, &format!("u{offset}")).await;
                    assert!(answer.is_accepted(), "{answer:?} at {offset} s");
                })
                .await;
        })
        .await;
}

#[tokio::test]
async fn clock_steps_of_a_consumer_break_no_promise() {
    let clock = Clock::new();
    let mut scene = Scene::begin(impatient(Stores::shared().await, "clock-consumer").await).await;
    scene.consumer_with(&words(&clock.env())).await;
    scene
        .survives(async |scene| {
            let process = (*scene.consumer).clone();
            let mut rows = 20;
            clock
                .steps(&process, async |_| {
                    assert_eq!(scene.wave().await, [("accepted".into(), 20)].into());
                    rows += 20;
                    scene.issued(rows).await;
                })
                .await;
        })
        .await;
}

#[tokio::test]
async fn clock_steps_of_a_reconciler_break_no_promise_and_stop_no_schedule() {
    let clock = Clock::new();
    let mut scene = Scene::begin(impatient(Stores::shared().await, "clock-daemon").await).await;
    assert_eq!(scene.daemon.process.stop().await, 0);
    scene.daemon = scene.world.daemon_with(&words(&clock.env())).await;
    scene
        .survives(async |scene| {
            let process = scene.daemon.http().clone();
            let passes = "SELECT COUNT(*) FROM reconcile_runs WHERE triggered_by = 'cron' AND status <> 'running'";
            clock
                .steps(&process, async |offset| {
                    scene.wave().await;
                    let before = scene.world.sql.number(passes).await;
                    eventually(&format!("passes go on at {offset} s"), HEALED, async || {
                        scene.world.sql.number(passes).await > before + 1
                    })
                    .await;
                })
                .await;
        })
        .await;
}
