//! People who ask until they are answered, and what they were told.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

use firstcome_histories::{Answer, Outcome, Recorder};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::inflict::pause;
use crate::schedule::Schedule;
use crate::stage::{Drop, Stage};

/// A person gives up on an answer after this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everyone of a schedule.
pub struct Crowd<'a> {
    stage: &'a Stage,
    drops: Vec<Drop>,
    recorder: Recorder,
    client: reqwest::Client,
    told: Mutex<HashMap<Person, Answer>>,
}

/// Which of the coupons they want, and their number.
type Person = (usize, u32);

impl<'a> Crowd<'a> {
    /// Nobody has asked yet.
    pub fn new(stage: &'a Stage, drops: Vec<Drop>, recorder: Recorder) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        Ok(Self { stage, drops, recorder, client, told: Mutex::default() })
    }

    /// Everyone comes in their time and asks until they are answered.
    pub async fn come(&self, schedule: &Schedule) {
        let mut rng = StdRng::seed_from_u64(schedule.seed ^ 0x00c0_ffee);
        let people = self.everyone(schedule.people).map(|person| {
            let after = rng.random_range(0..schedule.crowd_ms);
            let again = rng.random_range(0..100) < schedule.repeat_percent;
            async move {
                pause(after).await;
                self.until_answered(person).await;
                if again {
                    self.until_answered(person).await;
                }
            }
        });
        futures_util::future::join_all(people).await;
    }

    fn everyone(&self, people: u32) -> impl Iterator<Item = Person> + use<> {
        let coupons = self.drops.len();
        (0..people).flat_map(move |number| (0..coupons).map(move |coupon| (coupon, number)))
    }

    async fn until_answered(&self, person: Person) {
        let mut wait = 50;
        while !self.ask(person).await {
            pause(wait).await;
            wait = (wait * 2).min(500);
        }
    }

    /// Those who have no slot ask once more; true when all of them were answered.
    pub async fn the_others_ask_again(&self, people: u32) -> bool {
        let told = self.told().clone();
        let holds =
            |person: &Person| matches!(told.get(person), Some(Answer::Accepted { .. } | Answer::AlreadyClaimed { .. }));
        self.ask_all(self.everyone(people).filter(|person| !holds(person))).await
    }

    /// Everyone asks once more; true when all were answered.
    pub async fn all_ask_again(&self, people: u32) -> bool {
        self.ask_all(self.everyone(people)).await
    }

    async fn ask_all(&self, people: impl Iterator<Item = Person>) -> bool {
        use futures_util::StreamExt as _;
        let asked = futures_util::stream::iter(people.map(|person| self.ask(person))).buffer_unordered(64);
        asked.fold(true, async |all, answered| all && answered).await
    }

    /// One request, recorded. True when the answer settles it for now.
    async fn ask(&self, person: Person) -> bool {
        let apis = self.stage.cast.apis();
        let Some(api) = apis.get(rand::random_range(0..apis.len().max(1))) else { return false };
        let (drop, name) = (self.drops[person.0], format!("u-{}", person.1));
        let coupon = drop.coupon;
        let id = |number: i64| u64::try_from(number).unwrap_or_default();
        let pending = self.recorder.invoke(id(coupon), Some(id(drop.id)), &name);
        let request = self.client.post(format!("{api}/v1/coupons/{coupon}/claims")).header("x-user-id", &name);
        let outcome = match read(request).await {
            Ok((status, body)) => Outcome::of_http(status, &body),
            Err(error) => Outcome::Unknown(error.to_string()),
        };
        let answer = if let Outcome::Ok(answer) = &outcome { Some(answer.clone()) } else { None };
        pending.end(outcome);
        let settled = answer.is_some();
        if let Some(answer) = answer {
            self.told().insert(person, answer);
        }
        settled
    }

    fn told(&self) -> parking_lot::MutexGuard<'_, HashMap<Person, Answer>> {
        self.told.lock()
    }
}

async fn read(request: reqwest::RequestBuilder) -> reqwest::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}
