//! Users who claim until they get an answer. All answers are recorded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_harness::{Answer, ApiClient, HttpReply, MadeCoupon};
use firstcome_oracle::{RecordedAnswer, RecordedOutcome, Recorder, ShownClaim};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize as _;

use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::wait::pause;

/// Time for which a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A user: the index of the requested coupon, and the user's number.
pub(crate) type ChaosUser = (usize, u32);

/// A drop and a slot of it.
pub(crate) type HeldSlot = (i64, i64);

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) person: ChaosUser,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) answer: Answer,
}

/// What the users observed.
pub(crate) struct Heard {
    /// In order of arrival.
    pub(crate) answers: Vec<Answered>,
    /// Answers outside the contract.
    pub(crate) outside: Vec<String>,
}

/// The party that revokes or returns a user's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    User,
    Operator,
    /// An operator revokes it, and the user may claim again.
    OperatorOnce,
}

/// What a look-up shows.
#[derive(Debug, Clone, Copy)]
struct SeenClaim {
    claim: ShownClaim,
    /// The drop that the answer names.
    drop: Option<i64>,
    /// The slot, if the user has one.
    slot: Option<i64>,
}

impl SeenClaim {
    /// Returns `None` if the answer is outside the contract.
    fn new(reply: &HttpReply, drops: &[i64]) -> Option<Self> {
        let claim = ShownClaim::deserialize(&reply.body["status"]).ok()?;
        let slot = reply.body["slot"].as_i64().filter(|_| claim.is_promise());
        let drop = reply.body["drop_id"].as_i64();
        let is_known = drop.is_some_and(|drop| drops.contains(&drop));
        let fits = slot.is_some() && is_known || !claim.is_promise();
        (reply.status == 200 && fits).then_some(Self { claim, drop, slot })
    }

    /// Whether this is what a user with this row sees, or without a row.
    fn fits(self, row: Option<HeldSlot>) -> bool {
        let held = self.drop.zip(self.slot);
        held.filter(|_| self.claim == ShownClaim::Issued) == row
    }
}

/// All users of a schedule.
pub(crate) struct Clients<'a> {
    system: &'a SystemUnderTest,
    schedule: &'a FaultSchedule,
    coupons: &'a [MadeCoupon],
    api: ApiClient,
    recorder: Recorder,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    all: Vec<Answered>,
    /// The last definite answer of each user, positive or negative.
    settled: HashMap<ChaosUser, Answer>,
    outside: Vec<String>,
    /// Users whose slot or place on the waiting list is returned or revoked, and by whom. They are
    /// added before the first such request, and removed if a shop has used the code.
    revoked: HashMap<ChaosUser, By>,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(
        system: &'a SystemUnderTest,
        schedule: &'a FaultSchedule,
        recorder: Recorder,
    ) -> Self {
        Self {
            system,
            schedule,
            coupons: system.coupons(),
            api: ApiClient::patient("", PATIENCE, recorder.clone()),
            recorder,
            answers: Mutex::default(),
        }
    }

    /// Lets all users arrive at their times and claim until they get an answer.
    pub(crate) async fn come(&self) {
        let schedule = self.schedule;
        // A revocation while Redis's clock is ahead is later than all claims of the next hours.
        let goes_ahead = !schedule.clock_lead().is_zero();
        let mut rng = StdRng::seed_from_u64(schedule.seed ^ 0x00c0_ffee);
        // At most this many users of each coupon return a slot or are revoked, so that more users
        // than slots remain.
        let given = schedule.most() * schedule.days();
        let most = schedule.people.saturating_sub(given) / 2;
        let mut returns = vec![most; self.coupons.len()];
        let people = self.everyone().map(|person| {
            let after = rng.random_range(0..schedule.crowd_ms);
            let revoked =
                rng.random_range(0..100) < schedule.revoke_percent && returns[person.0] > 0;
            returns[person.0] -= u32::from(revoked);
            let by = match [By::User, By::Operator, By::OperatorOnce][rng.random_range(0..3)] {
                By::OperatorOnce if goes_ahead => By::Operator,
                by => by,
            };
            let again = rng.random_range(0..100) < schedule.repeat_percent;
            async move {
                pause(after).await;
                self.until_answered(person).await;
                if again {
                    self.until_answered(person).await;
                }
                if revoked {
                    self.until_revoked(person, by).await;
                }
            }
        });
        futures_util::future::join_all(people).await;
    }

    pub(crate) fn everyone(&self) -> impl Iterator<Item = ChaosUser> + use<> {
        let people = self.schedule.people;
        let coupons = self.coupons.len();
        (0..people).flat_map(move |number| (0..coupons).map(move |coupon| (coupon, number)))
    }

    async fn until_answered(&self, person: ChaosUser) {
        until(async || self.ask(person).await).await;
    }

    /// Returns or revokes the user's slot or place on the waiting list.
    async fn until_revoked(&self, person: ChaosUser, by: By) {
        let holds = |answer: &Answer| {
            answer.promised().is_some() || matches!(answer, Answer::Waiting { .. })
        };
        if !self.answers.lock().settled.get(&person).is_some_and(holds) {
            return;
        }
        self.answers.lock().revoked.insert(person, by);
        until(async || self.revoke(person, by).await).await;
        if by != By::OperatorOnce {
            return;
        }
        self.answers.lock().settled.remove(&person);
        self.until_answered(person).await;
    }

    async fn revoke(&self, person: ChaosUser, by: By) -> bool {
        let Some(api) = self.system.supervisor.any_api() else {
            return false;
        };
        let coupon = self.coupons[person.0].id;
        let name = self.schedule.user_id(person.1);
        let api = self.api.moved_to(&api);
        let again = by == By::OperatorOnce;
        let body =
            serde_json::json!({"reason": "chaos", "by": "an operator", "may_claim_again": again});
        let answer = if by == By::User {
            api.give_back(coupon, &name).await
        } else {
            api.revoke(coupon, &name, &body).await
        };
        if answer.as_ref().is_err_and(|answer| answer.is("used")) {
            // A shop has used the code, so the user keeps the coupon.
            self.answers.lock().revoked.remove(&person);
            return true;
        }
        // If the promise was broken and listed, there may be nothing to return.
        answer.is_ok() || answer.is_err_and(|answer| answer.is("not_found"))
    }

    /// Lets users claim once more who have no slot or may have another. Returns true if all of them
    /// got a definite answer.
    pub(crate) async fn the_others_ask_again(&self) -> bool {
        let settled = self.answers.lock().settled.clone();
        let (over, _) = self.system.by_end();
        let is_last =
            |drop: i64| self.schedule.once_per == "coupon" || over.iter().all(|it| it.drop != drop);
        let holds = |person: &ChaosUser| {
            let promised = settled.get(person).and_then(Answer::promised);
            promised.is_some_and(|(drop, _)| is_last(drop))
        };
        self.ask_all(self.everyone().filter(|person| !holds(person)))
            .await
    }

    /// Keeps users looking up their claims, with a limited number at a time.
    pub(crate) async fn poll(&self) {
        let pollers = self.schedule.pollers;
        let people = self.schedule.people;
        futures_util::future::join_all((0..pollers).map(|_| self.poll_alone(people))).await;
        std::future::pending::<()>().await;
    }

    async fn poll_alone(&self, people: u32) {
        loop {
            let coupon = rand::random_range(0..self.coupons.len());
            let anyone = (coupon, rand::random_range(0..people));
            let person = self.a_revoked_user().unwrap_or(anyone);
            let seen = self.look_up(person).await;
            // The claim of a user who believes it must not get a slot.
            if seen.is_some_and(|seen| seen.claim == ShownClaim::Revoked) {
                self.claim_while_revoked(person).await;
            }
            pause(500).await;
        }
    }

    /// Returns, in half of all calls, a user whose claim is being revoked or was revoked.
    fn a_revoked_user(&self) -> Option<ChaosUser> {
        let answers = self.answers.lock();
        let number = answers.revoked.len();
        let at = rand::random_range(0..number.max(1) * 2);
        answers.revoked.keys().nth(at).copied()
    }

    /// Lets a user claim, unless the user may claim again.
    async fn claim_while_revoked(&self, person: ChaosUser) {
        let by = self.answers.lock().revoked.get(&person).copied();
        if by.is_some_and(|by| by != By::OperatorOnce) {
            self.ask(person).await;
        }
    }

    /// Lets all users look up their claims once. Fails unless each holder of a row sees it, and no
    /// other user sees one.
    pub(crate) async fn all_see_their_rows(
        &self,
        rows: &HashMap<ChaosUser, HeldSlot>,
    ) -> Result<()> {
        use futures_util::StreamExt as _;
        let seen = self.everyone().map(async |person| {
            let seen = self.look_up(person).await;
            let name = self.schedule.user_id(person.1);
            let seen = seen.with_context(|| format!("a look-up by {name} was not answered"))?;
            let row = rows.get(&person).copied();
            ensure!(
                seen.fits(row),
                "at the end, {name} has the row {row:?} and sees {seen:?}"
            );
            Ok(())
        });
        let seen = futures_util::stream::iter(seen).buffer_unordered(64);
        seen.fold(Ok(()), async |all, one| all.and(one)).await
    }

    /// Looks up a claim, and returns what a 200 shows.
    async fn look_up(&self, person: ChaosUser) -> Option<SeenClaim> {
        let Some(api) = self.system.supervisor.any_api() else {
            pause(100).await;
            return None;
        };
        let coupon = &self.coupons[person.0];
        let name = self.schedule.user_id(person.1);
        let pending = self.recorder.looking_up(coupon.id.cast_unsigned(), &name);
        let reply = self.api.moved_to(&api).try_me(coupon.id, &name).await;
        let reply = reply.ok()?;
        if reply.status == 503 && reply.retry_after().is_some() {
            return None;
        }
        let seen = SeenClaim::new(&reply, &self.system.drops_of(coupon));
        if let Some(SeenClaim { claim, drop, slot }) = seen {
            let (drop, claim) = (drop.map(i64::cast_unsigned), Some(claim));
            let shown = RecordedAnswer::Shown { slot, drop, claim };
            pending.end(RecordedOutcome::Ok(shown));
        } else {
            let answer = format!("a look-up was answered {} {}", reply.status, reply.text);
            self.system.object(answer);
        }
        seen
    }

    /// Lets these users claim once more. Returns true if all of them got a definite answer.
    pub(crate) async fn ask_all(&self, people: impl Iterator<Item = ChaosUser>) -> bool {
        use futures_util::StreamExt as _;
        let asked =
            futures_util::stream::iter(people.map(|person| self.ask(person))).buffer_unordered(64);
        asked
            .fold(true, async |all, answered| all && answered)
            .await
    }

    /// Sends and records one request. Returns whether the answer is definite for now.
    async fn ask(&self, person: ChaosUser) -> bool {
        let Some(api) = self.system.supervisor.any_api() else {
            return false;
        };
        let coupon = &self.coupons[person.0];
        let name = self.schedule.user_id(person.1);
        let asked = Instant::now();
        let answer = self
            .api
            .moved_to(&api)
            .try_claim(coupon.id, None, &name)
            .await;
        let mut answers = self.answers.lock();
        match answer {
            Ok(answer) => {
                let is_final = |by: &By| *by != By::OperatorOnce;
                let settled = answer.promised().is_some()
                    || matches!(answer, Answer::Waiting { .. })
                    || answer.is("sold_out")
                    || answer.is("not_allowed")
                    || answer.is("revoked") && answers.revoked.get(&person).is_some_and(is_final);
                if settled {
                    answers.settled.insert(person, answer.clone());
                }
                answers.all.push(Answered {
                    person,
                    asked,
                    answered: Instant::now(),
                    answer,
                });
                settled
            }
            Err(outside) => {
                answers.outside.push(outside);
                false
            }
        }
    }

    pub(crate) fn into_heard(self) -> Heard {
        let Answers { all, outside, .. } = self.answers.into_inner();
        Heard {
            answers: all,
            outside,
        }
    }
}

/// Retries with growing pauses until the action succeeds. A 503 asks for at least one second.
async fn until(is_done: impl AsyncFn() -> bool) {
    let mut wait = 50;
    while !is_done().await {
        pause(wait).await;
        wait = (wait * 2).min(1_600);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(status: u16, body: Value) -> Option<SeenClaim> {
        let reply = HttpReply {
            status,
            content_type: String::new(),
            headers: reqwest::header::HeaderMap::new(),
            text: body.to_string(),
            body,
        };
        SeenClaim::new(&reply, &[6, 7])
    }

    #[test]
    fn a_look_up_shows_the_row_of_its_user_or_is_outside_the_contract() {
        let shows = |status: &str| json!({"status": status, "drop_id": 7, "slot": 3});
        for (status, of_row, of_nobody) in [
            ("issued", true, false),
            ("accepted", false, true),
            ("revoked", false, true),
            ("none", false, true),
        ] {
            let seen = seen(200, shows(status)).unwrap();
            let rows = [Some((7, 3)), Some((7, 4)), Some((6, 3)), None];
            let expected = [of_row, false, false, of_nobody];
            assert_eq!(rows.map(|row| seen.fits(row)), expected, "{status}");
        }
        let [no_slot, other_drop] = [
            json!({"status": "accepted", "drop_id": 7, "slot": null}),
            json!({"status": "issued", "drop_id": 8, "slot": 3}),
        ];
        for (status, body) in [
            (200, no_slot),
            (200, other_drop),
            (200, shows("taken")),
            (200, Value::Null),
            (404, shows("none")),
        ] {
            assert!(seen(status, body.clone()).is_none(), "{status} {body}");
        }
    }
}
