//! Operators who keep changing coupons independently of each other. At the end, the settings in
//! MySQL must be in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_testkit::histories::Recorder;
use firstcome_testkit::{ApiClient, Http, HttpReply, MadeCoupon};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use crate::fault::ProcessRole;
use crate::inject::Effect;
use crate::schedule::FaultSchedule;
use crate::supervisor::Supervised;
use crate::system::{SystemUnderTest, number};
use crate::wait::{pause, until};

/// Time limit of an operator's request.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Operators<'a> {
    system: &'a SystemUnderTest,
    schedule: &'a FaultSchedule,
    coupons: &'a [MadeCoupon],
    api: ApiClient,
    /// Whether the operators should stop.
    enough: AtomicBool,
    stopped: AtomicBool,
}

impl<'a> Operators<'a> {
    /// `recorder` records changes of the allow list.
    pub(crate) fn new(
        system: &'a SystemUnderTest,
        schedule: &'a FaultSchedule,
        coupons: &'a [MadeCoupon],
        recorder: Recorder,
    ) -> Self {
        let api = ApiClient::patient("", PATIENCE, recorder);
        Self {
            system,
            schedule,
            coupons,
            api,
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

    /// If there are operators, waits until all users have arrived.
    pub(crate) async fn until_people_came(&self) {
        if self.schedule.operators > 0 || self.schedule.relisted {
            pause(self.schedule.crowd_ms).await;
        }
    }

    pub(crate) async fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
        until(PATIENCE * 3, || self.stopped.load(Ordering::Relaxed)).await;
    }

    async fn one(&self, number: u32) {
        let mut rng = StdRng::seed_from_u64(self.schedule.seed ^ (u64::from(number + 1) << 32));
        let coupons = self.coupons;
        while !self.enough.load(Ordering::Relaxed) {
            let coupon = &coupons[rng.random_range(0..coupons.len())];
            let quantity = rng.random_range(self.schedule.quantity / 2..=self.schedule.most());
            match rng.random_range(0..4) {
                0 => {
                    self.change(
                        coupon,
                        &json!({"name": format!("Coupon of operator {number}")}),
                    )
                    .await;
                }
                1 => {
                    self.change(coupon, &json!({"quantity": quantity, "paused": false}))
                        .await;
                }
                2 => self.change(coupon, &json!({"quantity": quantity})).await,
                _ => {
                    self.change(coupon, &json!({"paused": true})).await;
                    pause(rng.random_range(20..150)).await;
                    self.change(coupon, &json!({"paused": false})).await;
                }
            }
            pause(rng.random_range(20..300)).await;
        }
    }

    /// Adds some users to the allow list and removes others, a few at a time.
    async fn relist(&self) {
        let Some(coupon) = self.coupons.first().filter(|_| self.schedule.relisted) else {
            return;
        };
        let mut rng = StdRng::seed_from_u64(self.schedule.seed ^ 0x0115_7000);
        while !self.enough.load(Ordering::Relaxed) {
            let first = rng.random_range(0..self.schedule.people);
            let numbers = first..first + rng.random_range(1..=5);
            let people: Vec<String> = numbers
                .map(|number| self.schedule.user_id(number % self.schedule.people))
                .collect();
            self.list(coupon, &people, rng.random_bool(0.5)).await;
            pause(rng.random_range(20..300)).await;
        }
    }

    async fn list(&self, coupon: &MadeCoupon, people: &[String], on: bool) {
        let Some(base) = self.system.supervisor.any_api() else {
            return pause(100).await;
        };
        let Ok(reply) = self
            .api
            .moved_to(&base)
            .try_list(coupon.id, people, on)
            .await
        else {
            return;
        };
        let in_contract = match reply.status {
            200 => reply.body["people"].is_u64(),
            503 => reply.retry_after().is_some(),
            _ => false,
        };
        if !in_contract {
            self.system.object(format!(
                "a change of an allow list was answered {} {}",
                reply.status, reply.text
            ));
        }
    }

    /// Sends a change, which may be refused or fail because a store is down.
    async fn change(&self, coupon: &MadeCoupon, change: &Value) {
        let Some(base) = self.system.supervisor.any_api() else {
            return pause(100).await;
        };
        let Ok(reply) = self.api.moved_to(&base).try_patch(coupon.id, change).await else {
            return;
        };
        if !is_in_contract(coupon.id, change, &reply) {
            self.system.object(format!(
                "a change by an operator, {change}, was answered {} {}",
                reply.status, reply.text
            ));
        }
    }

    /// Resumes every paused coupon, even if a suspended API pauses it late.
    async fn end_pauses(&self) {
        for coupon in self.coupons {
            let paused = format!("SELECT paused FROM coupons WHERE id = {}", coupon.id);
            if self.schedule.operators > 0
                && number(self.system, &paused)
                    .await
                    .is_ok_and(|paused| paused == 1)
            {
                self.change(coupon, &json!({"paused": false})).await;
            }
        }
    }
}

/// Confirms repairs of every coupon at the first reconciler that answers.
pub(crate) async fn confirm(system: &SystemUnderTest) -> Effect {
    let daemons = system.supervisor.all().iter();
    let daemons = daemons.filter(|process| process.role() == ProcessRole::Reconciler);
    let mut answers = 0;
    for base in daemons.filter_map(Supervised::address) {
        for coupon in system.coupons() {
            let body = json!({"confirm": true, "coupon_id": coupon.id});
            let request = Http::new(&base)
                .ops(Method::POST, "/v1/reconcile")
                .json(&body);
            // The daemon may be suspended or die meanwhile.
            let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, Http::try_send(request)).await
            else {
                continue;
            };
            answers += 1;
            if !matches!(reply.status, 200 | 409 | 503) {
                system.object(format!(
                    "a confirmation was answered {} {}",
                    reply.status, reply.text
                ));
            }
        }
    }
    Effect::now(answers > 0, format!("{answers} answers"))
}

/// Whether the API may give this answer to a change.
fn is_in_contract(coupon: i64, change: &Value, reply: &HttpReply) -> bool {
    match reply.status {
        200 => reply.body["id"] == coupon,
        409 => reply.body["code"] == "below_given_out" && !change["quantity"].is_null(),
        503 => reply.retry_after().is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_answers_outside_the_contract() {
        let answered = |status, change: Value, body: Value, retry_after: bool| {
            let headers =
                retry_after.then(|| ("retry-after".parse().unwrap(), "1".parse().unwrap()));
            let content_type = String::new();
            let text = body.to_string();
            let reply = HttpReply {
                status,
                content_type,
                headers: headers.into_iter().collect(),
                body,
                text,
            };
            is_in_contract(7, &change, &reply)
        };
        let pause = json!({"paused": true});
        let lower = json!({"quantity": 5});
        assert!(answered(200, pause.clone(), json!({"id": 7}), false));
        assert!(
            !answered(200, pause.clone(), json!({"id": 8}), false),
            "another coupon's"
        );
        assert!(answered(
            409,
            lower.clone(),
            json!({"code": "below_given_out"}),
            false
        ));
        assert!(
            !answered(
                409,
                pause.clone(),
                json!({"code": "below_given_out"}),
                false
            ),
            "no quantity was lowered"
        );
        assert!(!answered(409, lower, json!({"code": "conflict"}), false));
        assert!(answered(503, pause.clone(), json!({}), true));
        assert!(
            !answered(503, pause.clone(), json!({}), false),
            "there is no Retry-After"
        );
        assert!(!answered(500, pause.clone(), json!({}), true));
        assert!(!answered(404, pause, json!({}), false));
    }
}
