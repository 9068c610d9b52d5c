//! The load generator: a crowd claims one coupon over a bounded number of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answer::{AnswerKind, CrowdAnswer};
use crate::client::{Call, Connection, Target};
use crate::clock::CrowdClock;
use crate::crowd::Crowd;
use crate::identity::CrowdIdentity;
use crate::measure::cpu_seconds;
use crate::tally::{ConnectionTally, CrowdProgress, Tally};

/// Pause before a user retries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A request of an open loop counts as late if it is sent this long after its due time, because
/// every connection was busy.
const LATE: Duration = Duration::from_millis(10);

#[derive(Debug, Clone)]
pub struct CrowdPlan {
    /// Addresses of the APIs. The connections are spread over all of them.
    pub targets: Vec<Target>,
    pub coupon_id: i64,
    pub crowd: Crowd,
    /// Number of concurrent connections, each with one request in flight.
    pub connections: usize,
    pub identity: CrowdIdentity,
    /// Requests per second, independent of the responses (open loop). Without it, each connection
    /// sends the next request as soon as it gets a response (closed loop).
    pub rate: Option<f64>,
    /// Period from the start in which users retry after answers that may change (not open yet,
    /// unavailable, no answer).
    pub patience: Duration,
    /// Whether each connection sends one uncounted request for a separate user before the clock
    /// starts, so that opening many connections at once is not part of the measurement.
    pub warm_up: bool,
}

impl CrowdPlan {
    /// Plans a closed loop without retries, on new connections.
    pub fn new(targets: Vec<Target>, coupon_id: i64, crowd: Crowd, connections: usize) -> Self {
        Self {
            targets,
            coupon_id,
            crowd,
            connections,
            identity: CrowdIdentity::TrustedHeader,
            rate: None,
            patience: Duration::ZERO,
            warm_up: false,
        }
    }

    fn target(&self, number: usize) -> &Target {
        &self.targets[number % self.targets.len()]
    }
}

/// Opens all connections, lets every user claim, and counts the answers.
pub async fn run(plan: CrowdPlan, progress: Arc<CrowdProgress>) -> Result<Tally> {
    ensure!(
        !plan.targets.is_empty() && plan.connections > 0,
        "a crowd needs a target and a connection"
    );
    let path: Arc<str> = format!("/v1/coupons/{}/claims", plan.coupon_id).into();
    let plan = Arc::new(plan);
    let mut ready = Vec::new();
    for number in 0..plan.connections.min(plan.crowd.requests()) {
        let mut connection = Connection::open(plan.target(number)).await?;
        if plan.warm_up {
            let headers = [("x-user-id", &*format!("{}-{number}", plan.crowd.user_id(0)))];
            connection
                .send(&Call {
                    method: "POST",
                    path: &path,
                    headers: &headers,
                    body: b"",
                })
                .await?;
        }
        ready.push((number, connection, ConnectionTally::new()));
    }
    let next = Arc::new(AtomicUsize::new(0));
    // Everything is created before the clock starts. Otherwise the crowd's own work would count as
    // the server's.
    let cpu = own_cpu();
    let clock = CrowdClock::start(plan.rate);
    let mut workers = JoinSet::new();
    for (number, connection, tally) in ready {
        let plan = plan.clone();
        let progress = progress.clone();
        let path = path.clone();
        let worker = CrowdWorker {
            plan,
            progress,
            path,
            clock,
            number,
            connection: Some(connection),
            tally,
        };
        workers.spawn(worker.work(next.clone()));
    }
    let parts = workers.join_all().await;
    let elapsed = clock.begun.elapsed();
    let crowd = &plan.crowd;
    let tally = Tally::sum(&progress, crowd.people(), elapsed, parts, |person| {
        crowd.user_id(person)
    });
    Ok(Tally {
        cpu_seconds: own_cpu() - cpu,
        ..tally
    })
}

fn own_cpu() -> f64 {
    cpu_seconds(std::process::id()).unwrap_or(0.0)
}

/// One connection and the answers that it got.
struct CrowdWorker {
    plan: Arc<CrowdPlan>,
    progress: Arc<CrowdProgress>,
    path: Arc<str>,
    clock: CrowdClock,
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
            let due = self.clock.turn(number).await;
            self.tally.late += u64::from(due.elapsed() > LATE);
            self.ask_until_answered(person, due).await;
        }
    }

    async fn ask_until_answered(&mut self, person: u32, due: Instant) {
        let (name, value) = self.plan.identity.header(&self.plan.crowd, person);
        let mut asked = due;
        loop {
            let answer = self.ask((name, &value)).await;
            self.tally.note(person, &answer, asked);
            self.progress.add(answer.kind);
            if !answer.kind.may_pass() {
                return;
            }
            if self.clock.begun.elapsed() > self.plan.patience {
                self.tally.gave_up += 1;
                return;
            }
            sleep(RETRY_PAUSE).await;
            asked = Instant::now();
        }
    }

    async fn ask(&mut self, identity: (&str, &str)) -> CrowdAnswer {
        let call = Call {
            method: "POST",
            path: &self.path,
            headers: &[identity],
            body: b"",
        };
        let connection = match &mut self.connection {
            Some(connection) => Ok(connection),
            None => Connection::open(self.plan.target(self.number))
                .await
                .map(|new| self.connection.insert(new)),
        };
        let answered = match connection {
            Ok(connection) => connection.send(&call).await,
            Err(error) => Err(error),
        };
        let Ok((status, body)) = answered else {
            self.connection = None;
            // The next attempt goes to a different process.
            self.number += 1;
            return CrowdAnswer::no(AnswerKind::NoAnswer);
        };
        let answer = CrowdAnswer::read(status, body);
        if matches!(answer.kind, AnswerKind::Refused | AnswerKind::Failed)
            && self.tally.unclear.is_none()
        {
            let body: String = String::from_utf8_lossy(body).chars().take(200).collect();
            self.tally.unclear = Some(format!("{status} {body}"));
        }
        answer
    }
}
