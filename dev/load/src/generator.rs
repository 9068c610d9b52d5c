//! The load generator: a crowd claims one coupon over a bounded number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_oracle::{Pending, Recorder};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answer::{AnswerKind, outcome};
use crate::client::{Connection, Target};
use crate::crowd::Crowd;
use crate::process::cpu_seconds;
use crate::tally::{ConnectionTally, CrowdProgress, Tally};

/// Pause before a user retries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A request of an open loop counts as late if it is sent this long after its due time, because
/// every connection was busy.
const LATE: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct CrowdPlan {
    /// Addresses of the APIs. The connections are spread over all of them.
    pub targets: Vec<Target>,
    pub coupon_id: i64,
    pub crowd: Crowd,
    /// Number of concurrent connections, each with one request in flight.
    pub connections: usize,
    /// The `Authorization` header of each user. Without it, users are named in `X-User-Id`, as
    /// behind a gateway.
    pub tokens: Option<Vec<String>>,
    /// Requests per second, independent of the responses (open loop). Without it, each connection
    /// sends the next request as soon as it gets a response (closed loop).
    ///
    /// In an open loop each request has a fixed due time from which its latency counts, so a stall
    /// of the server counts for every user who arrives meanwhile. In a closed loop a stalled server
    /// gets fewer requests, and those waits are missing from the figures ("coordinated omission").
    pub rate: Option<f64>,
    /// Period from the start in which users retry after answers that may change (not open yet,
    /// unavailable, no answer).
    pub patience: Duration,
    /// Whether each connection sends one uncounted claim of a further user, who may get a slot,
    /// before the clock starts. Otherwise the first requests also wait until the server has
    /// accepted many connections at once.
    pub warm_up: bool,
    /// Records each request and its answer.
    pub recorder: Option<Recorder>,
}

impl CrowdPlan {
    fn target(&self, number: usize) -> &Target {
        &self.targets[number % self.targets.len()]
    }

    /// Records that a user claims.
    fn invoke(&self, user: &str) -> Option<Pending> {
        let recorder = self.recorder.as_ref()?;
        Some(recorder.invoke(self.coupon_id.cast_unsigned(), None, user))
    }

    /// Returns the header that identifies a user.
    fn header(&self, person: u32) -> (&'static str, String) {
        match &self.tokens {
            None => ("x-user-id", self.crowd.user_id(person)),
            Some(tokens) => ("authorization", tokens[person as usize].clone()),
        }
    }
}

/// Opens all connections, lets every user claim, and counts the answers.
pub async fn run(plan: CrowdPlan, progress: Arc<CrowdProgress>) -> Result<Tally> {
    ensure!(
        !plan.targets.is_empty() && plan.connections > 0,
        "a crowd needs a target and a connection"
    );
    let tokens = plan.tokens.as_ref().map_or(usize::MAX, Vec::len);
    ensure!(
        tokens >= plan.crowd.people as usize,
        "there are {tokens} tokens for {} users",
        plan.crowd.people
    );
    let path: Arc<str> = format!("/v1/coupons/{}/claims", plan.coupon_id).into();
    let plan = Arc::new(plan);
    let mut ready = Vec::new();
    for number in 0..plan.connections.min(plan.crowd.requests()) {
        let mut connection = Connection::open(plan.target(number)).await?;
        if plan.warm_up {
            let user = format!("{}-{number}", plan.crowd.user_id(0));
            let _claim = plan.invoke(&user);
            connection.post(&path, ("x-user-id", &user)).await?;
        }
        ready.push((number, connection, ConnectionTally::new()));
    }
    let next = Arc::new(AtomicUsize::new(0));
    // Everything is created before the clock starts. Otherwise the crowd's own work would count as
    // the server's.
    let own_cpu = || cpu_seconds(std::process::id());
    let cpu = own_cpu()?;
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for (number, connection, tally) in ready {
        let worker = CrowdWorker {
            plan: plan.clone(),
            progress: progress.clone(),
            path: path.clone(),
            begun,
            number,
            connection: Some(connection),
            tally,
        };
        workers.spawn(worker.work(next.clone()));
    }
    let parts = workers.join_all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let crowd = &plan.crowd;
    Ok(Tally {
        cpu_seconds: own_cpu()? - cpu,
        ..Tally::sum(&progress, crowd.people, seconds, parts, |person| {
            crowd.user_id(person)
        })
    })
}

/// One connection and the answers that it got.
struct CrowdWorker {
    plan: Arc<CrowdPlan>,
    progress: Arc<CrowdProgress>,
    path: Arc<str>,
    begun: Instant,
    number: usize,
    connection: Option<Connection>,
    tally: ConnectionTally,
}

impl CrowdWorker {
    async fn work(mut self, next: Arc<AtomicUsize>) -> ConnectionTally {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(person) = self.plan.crowd.person(number) else {
                return self.tally;
            };
            let due = self.turn(number).await;
            self.tally.late += u64::from(due.elapsed() > LATE);
            self.ask_until_answered(person, due).await;
        }
    }

    /// Waits until a request is due and returns the time from which its latency counts. The timer
    /// has millisecond resolution, and late wake-ups count as latency, so latencies of an open loop
    /// are up to 1 ms too high.
    async fn turn(&self, number: usize) -> Instant {
        let Some(rate) = self.plan.rate else {
            return Instant::now();
        };
        #[allow(
            clippy::cast_precision_loss,
            reason = "numbers of requests are far below 2^52"
        )]
        let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        due
    }

    async fn ask_until_answered(&mut self, person: u32, due: Instant) {
        let (name, value) = self.plan.header(person);
        let mut asked = due;
        loop {
            let pending = self.plan.invoke(&self.plan.crowd.user_id(person));
            let answer = self.send_claim((name, &value), pending).await;
            let answer = answer.unwrap_or_else(|_| {
                self.connection = None;
                // The next attempt goes to the next API, if there are several.
                self.number += 1;
                AnswerKind::NoAnswer
            });
            self.tally.note(person, answer, asked);
            self.progress.add(answer);
            if !answer.may_pass() {
                return;
            }
            if self.begun.elapsed() > self.plan.patience {
                self.tally.gave_up += 1;
                return;
            }
            sleep(RETRY_PAUSE).await;
            asked = Instant::now();
        }
    }

    /// Sends a claim. Without an answer, it is recorded as unknown.
    async fn send_claim(
        &mut self,
        identity: (&str, &str),
        pending: Option<Pending>,
    ) -> Result<AnswerKind> {
        if self.connection.is_none() {
            let target = self.plan.target(self.number);
            self.connection = Some(Connection::open(target).await?);
        }
        let connection = self.connection.as_mut().context("no connection")?;
        let (status, body) = connection.post(&self.path, identity).await?;
        let outcome = outcome(status, body);
        let kind = AnswerKind::of(&outcome);
        let is_unclear = matches!(kind, AnswerKind::Refused | AnswerKind::Failed);
        if is_unclear && self.tally.unclear.is_none() {
            let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
            self.tally.unclear = Some(format!("{status} {body}"));
        }
        if let Some(pending) = pending {
            pending.end(outcome);
        }
        Ok(kind)
    }
}
