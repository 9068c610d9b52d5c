//! Users who claim continuously at the APIs to which a load balancer would send them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use firstcome_testkit::{Answer, ApiClient, MadeCoupon, PromisedAnswer, eventually};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::faults::waves::HEALED;

/// The number of concurrent users and the interval of each: together a hundred claims per second.
const AT_ONCE: usize = 10;
const EACH: Duration = Duration::from_millis(100);

pub(super) struct SteadyCrowd {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    coupon: i64,
    rotation: Mutex<Vec<ApiClient>>,
    people: AtomicUsize,
    requests: AtomicUsize,
    over: AtomicBool,
    answers: Mutex<Vec<(Instant, PromisedAnswer)>>,
}

impl SteadyCrowd {
    /// Starts a crowd at these APIs.
    pub(super) fn begin(coupon: &MadeCoupon, apis: Vec<ApiClient>) -> Self {
        let shared = Arc::new(Shared {
            coupon: coupon.id,
            rotation: Mutex::new(apis),
            people: AtomicUsize::default(),
            requests: AtomicUsize::default(),
            over: AtomicBool::default(),
            answers: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..AT_ONCE {
            tasks.spawn(ask_on(shared.clone()));
        }
        Self { shared, tasks }
    }

    /// Directs the crowd to these APIs from now on.
    pub(super) fn ask(&self, apis: Vec<ApiClient>) {
        *self.shared.rotation.lock() = apis;
    }

    /// Stops sending requests, and waits for the answers to those already sent.
    pub(super) async fn pauses(&self) {
        self.ask(Vec::new());
        eventually("the last request is answered", HEALED, async || {
            self.shared.answers.lock().len() == self.shared.requests.load(Ordering::Relaxed)
        })
        .await;
    }

    /// Waits until this many more requests have been answered. Returns immediately if the crowd
    /// pauses.
    pub(super) async fn goes_on(&self, answers: usize) {
        if self.shared.rotation.lock().is_empty() {
            return;
        }
        let wanted = self.shared.answers.lock().len() + answers;
        eventually("the crowd is answered", HEALED, async || {
            self.shared.answers.lock().len() >= wanted
        })
        .await;
    }

    /// Ends the crowd and returns all answers.
    pub(super) async fn end(mut self) -> Told {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        Told(std::mem::take(&mut self.shared.answers.lock()))
    }
}

impl Shared {
    /// Returns the API for the next request, or `None` while the crowd pauses.
    fn next_api(&self) -> Option<ApiClient> {
        let apis = self.rotation.lock();
        if apis.is_empty() {
            return None;
        }
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        Some(apis[request % apis.len()].clone())
    }
}

/// Users claim one after the other. Each retries until the answer is not a 503.
async fn ask_on(shared: Arc<Shared>) {
    let mut pace = tokio::time::interval(EACH);
    let mut person = None;
    while !shared.over.load(Ordering::Relaxed) || person.is_some() {
        pace.tick().await;
        let Some(api) = shared.next_api() else {
            continue;
        };
        let user = person.get_or_insert_with(|| {
            format!("c-{}", shared.people.fetch_add(1, Ordering::Relaxed) + 1)
        });
        let answer = api.claim(shared.coupon, user).await;
        shared
            .answers
            .lock()
            .push((Instant::now(), (user.clone(), answer.clone())));
        if !answer.is("unavailable") && !matches!(answer, Answer::Unknown(_)) {
            person = None;
        }
    }
}

/// All answers, with the times at which they arrived.
pub(super) struct Told(Vec<(Instant, PromisedAnswer)>);

impl Told {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the answers without a slot.
    pub(super) fn refusals(&self) -> Vec<&PromisedAnswer> {
        self.0
            .iter()
            .map(|(_, told)| told)
            .filter(|(_, answer)| answer.promised().is_none())
            .collect()
    }

    /// Returns the longest time between two accepted claims in which a user was refused.
    pub(super) fn longest_closed(&self) -> Duration {
        let mut longest = Duration::ZERO;
        let mut last_yes = None;
        let mut was_refused = false;
        for (at, (_, answer)) in &self.0 {
            if answer.promised().is_none() {
                was_refused = true;
                continue;
            }
            if let Some(last_yes) = last_yes.replace(*at).filter(|_| was_refused) {
                longest = longest.max(*at - last_yes);
            }
            was_refused = false;
        }
        longest
    }

    pub(super) fn answers(self) -> Vec<PromisedAnswer> {
        self.0.into_iter().map(|(_, told)| told).collect()
    }
}
