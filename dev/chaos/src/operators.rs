//! Operators who keep changing coupons independently of each other. At the end, the settings in
//! MySQL must be in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_harness::{ApiClient, Http, HttpReply, MadeCoupon};
use firstcome_oracle::Recorder;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::effect::Effect;
use crate::fault::ProcessRole;
use crate::schedule::FaultSchedule;
use crate::supervisor::Supervised;
use crate::system::SystemUnderTest;
use crate::wait::{pause, until};

/// Time limit of an operator's request.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Operators<'a> {
    system: &'a SystemUnderTest,
    schedule: &'a FaultSchedule,
    recorder: Recorder,
    api: ApiClient,
    /// Whether the operators should stop.
    enough: AtomicBool,
    stopped: AtomicBool,
}

impl<'a> Operators<'a> {
    /// `recorder` records changes of quantities and of the allow list.
    pub(crate) fn new(
        system: &'a SystemUnderTest,
        schedule: &'a FaultSchedule,
        recorder: Recorder,
    ) -> Self {
        Self {
            system,
            schedule,
            api: ApiClient::patient("", PATIENCE, recorder.clone()),
            recorder,
            enough: AtomicBool::default(),
            stopped: AtomicBool::default(),
        }
    }

    /// Runs all operators. Once they have stopped, keeps resuming paused coupons.
    pub(crate) async fn work(&self) {
        let all = (0..self.schedule.operators).map(|number| self.one(number));
        tokio::join!(futures_util::future::join_all(all), self.relist());
        self.stopped.store(true, Ordering::Relaxed);
        loop {
            self.end_pauses().await;
            pause(500).await;
        }
    }

    /// If operators, shops or changes of the allow list are in the schedule, waits until all users
    /// have arrived.
    pub(crate) async fn until_people_came(&self) {
        let FaultSchedule {
            operators, shops, ..
        } = self.schedule;
        if *operators > 0 || *shops > 0 || self.schedule.relisted {
            pause(self.schedule.crowd_ms).await;
        }
    }

    pub(crate) async fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
        until(PATIENCE * 3, || self.stopped.load(Ordering::Relaxed)).await;
    }

    fn goes_on(&self) -> bool {
        !self.enough.load(Ordering::Relaxed)
    }

    async fn one(&self, number: u32) {
        let mut rng = StdRng::seed_from_u64(self.schedule.seed ^ (u64::from(number + 1) << 32));
        let coupons = self.system.coupons();
        while self.goes_on() {
            let coupon = &coupons[rng.random_range(0..coupons.len())];
            let quantity = rng.random_range(self.schedule.quantity / 2..=self.schedule.most());
            let change = match rng.random_range(0..4) {
                0 => json!({"name": format!("Coupon of operator {number}")}),
                1 => json!({"quantity": quantity, "paused": false}),
                2 => json!({"quantity": quantity}),
                _ => json!({"paused": true}),
            };
            self.change(coupon, &change).await;
            if change["paused"] == true {
                pause(rng.random_range(20..150)).await;
                self.change(coupon, &json!({"paused": false})).await;
            }
            pause(rng.random_range(20..300)).await;
        }
    }

    /// Adds some users to the allow list and removes others, a few at a time.
    async fn relist(&self) {
        if !self.schedule.relisted {
            return;
        }
        let coupon = self.system.coupons()[0].id;
        let people = self.schedule.people;
        let mut rng = StdRng::seed_from_u64(self.schedule.seed ^ 0x0115_7000);
        while self.goes_on() {
            let first = rng.random_range(0..people);
            let numbers = first..first + rng.random_range(1..=5);
            let some = numbers.map(|number| self.schedule.user_id(number % people));
            let some: Vec<String> = some.collect();
            let on = rng.random_bool(0.5);
            if let Some(base) = self.system.supervisor.any_api() {
                let reply = self.api.moved_to(&base).try_list(coupon, &some, on).await;
                self.judge("of an allow list", reply, |reply| {
                    reply.status == 200 && reply.body["people"].is_u64()
                });
            }
            pause(rng.random_range(20..300)).await;
        }
    }

    /// Sends a change, which may be refused or fail because a store is down.
    async fn change(&self, coupon: &MadeCoupon, change: &Value) {
        let Some(base) = self.system.supervisor.any_api() else {
            return pause(100).await;
        };
        let quantity = change["quantity"].as_u64();
        let op =
            quantity.map(|quantity| self.recorder.changing(coupon.id.cast_unsigned(), quantity));
        let reply = self.api.moved_to(&base).try_patch(coupon.id, change).await;
        let made = reply.as_ref().ok().and_then(|reply| match reply.status {
            200 => Some(true),
            400..=407 | 409..=499 => Some(false),
            _ => None,
        });
        if let (Some(op), Some(made)) = (op, made) {
            self.recorder.changed(op, made);
        }
        self.judge(&change.to_string(), reply, |reply| {
            let below = reply.body["code"] == "below_given_out" && !change["quantity"].is_null();
            reply.status == 200 && reply.body["id"] == coupon.id || reply.status == 409 && below
        });
    }

    /// Records a failure if an answer is neither 503 nor in the contract. A missing answer is fine.
    fn judge(
        &self,
        what: &str,
        reply: Result<HttpReply, String>,
        in_contract: impl Fn(&HttpReply) -> bool,
    ) {
        let Ok(reply) = reply else { return };
        let is_away = reply.status == 503 && reply.retry_after().is_some();
        if !is_away && !in_contract(&reply) {
            let (status, text) = (reply.status, reply.text);
            let object = format!("a change by an operator, {what}, was answered {status} {text}");
            self.system.object(object);
        }
    }

    /// Resumes every paused coupon, even if a suspended API pauses it late.
    async fn end_pauses(&self) {
        for coupon in self.system.coupons() {
            let paused = format!("SELECT paused FROM coupons WHERE id = {}", coupon.id);
            let paused = self.system.number(&paused).await;
            if self.schedule.operators > 0 && paused.is_ok_and(|paused| paused == 1) {
                self.change(coupon, &json!({"paused": false})).await;
            }
        }
    }
}

/// Confirms, at every reconciler that answers, what a run has shown before, also if other repairs are
/// held back now.
pub(crate) async fn confirm_blindly(system: &SystemUnderTest) -> Effect {
    let shown = "SELECT drops FROM reconcile_runs WHERE drops LIKE '%fingerprint%' \
                 ORDER BY started_at LIMIT 1";
    let shown = system.world.sql.rows(shown).await.unwrap_or_default();
    let drops = shown
        .concat()
        .first()
        .and_then(|it| serde_json::from_str(it).ok());
    let confirm = fingerprints(&drops.unwrap_or_default());
    let mut answers = 0;
    for coupon in system.coupons() {
        let body = json!({"confirm": confirm, "coupon_id": coupon.id});
        answers += ask_for_pass(system, &body).await.len();
    }
    Effect::now(answers > 0, format!("{answers} answers"))
}

/// Requests the repairs of every coupon in dry runs, and confirms them.
pub(crate) async fn read_and_confirm(system: &SystemUnderTest) {
    for coupon in system.coupons() {
        let dry_run = json!({"dry_run": true, "coupon_id": coupon.id});
        let runs = ask_for_pass(system, &dry_run).await;
        let shown = runs.iter().map(|run: &Value| fingerprints(&run["drops"]));
        let confirm: Vec<Value> = shown.flatten().collect();
        ask_for_pass(system, &json!({"confirm": confirm, "coupon_id": coupon.id})).await;
    }
}

/// Returns the fingerprints of the repairs that the reports of drops show.
fn fingerprints(drops: &Value) -> Vec<Value> {
    let shown = drops.as_array().into_iter().flatten();
    shown
        .map(|drop| drop["held_back"]["fingerprint"].clone())
        .filter(|fingerprint| !fingerprint.is_null())
        .collect()
}

/// Requests a pass at every reconciler that answers, and returns what they answered.
async fn ask_for_pass(system: &SystemUnderTest, body: &Value) -> Vec<Value> {
    let daemons = system.supervisor.of_role(ProcessRole::Reconciler);
    let mut answers = Vec::new();
    for base in daemons.into_iter().filter_map(Supervised::address) {
        let http = Http::new(&base);
        let request = http.ops(Method::POST, "/v1/reconcile").json(body);
        // The daemon may be suspended or die meanwhile.
        let reply = tokio::time::timeout(PATIENCE, Http::try_send(request)).await;
        let Ok(Ok(reply)) = reply else { continue };
        if !matches!(reply.status, 200 | 409 | 503) {
            let (status, text) = (reply.status, &reply.text);
            system.object(format!("the pass {body} was answered {status} {text}"));
        }
        answers.push(reply.body);
    }
    answers
}
