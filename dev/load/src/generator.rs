//! Letting a crowd ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hyper::Method;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::answer::{Answer, Kind};
use crate::client::{Call, Connection, Target};
use crate::clock::Clock;
use crate::crowd::Crowd;
use crate::identity::Identity;
use crate::tally::{Progress, Seen, Tally};

/// Pause before the same person asks again after an answer that may pass.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A request of an open loop that was sent so much after its instant counts as late: every connection was waiting.
const LATE: Duration = Duration::from_millis(10);

/// How a rush is driven.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to ask; connections are spread over all of them.
    pub targets: Vec<Target>,
    pub coupon_id: i64,
    pub crowd: Crowd,
    /// Connections at a time, each with one request under way: that many ask at once.
    pub connections: usize,
    /// How people prove who they are.
    pub identity: Identity,
    /// Requests a second, by the clock and not by the answers (open loop); without it each connection asks again as soon as it
    /// was answered (closed loop).
    pub rate: Option<f64>,
    /// How long, from the beginning, people go on asking while the answer may pass (not open yet, unavailable, no answer).
    pub patience: Duration,
}

/// Opens all connections, then lets everybody ask, and counts.
pub async fn rush(plan: Plan, progress: Arc<Progress>) -> Result<Tally> {
    ensure!(!plan.targets.is_empty() && plan.connections > 0, "a rush needs a target and a connection");
    let plan = Arc::new(plan);
    let mut ready = Vec::new();
    for number in 0..plan.connections.min(plan.crowd.requests()) {
        ready.push((number, Connection::open(target(&plan, number)).await?, Seen::new()));
    }
    let next = Arc::new(AtomicUsize::new(0));
    // Everything is made before the clock starts: what the crowd is busy with is charged to the server.
    let clock = Clock::start(plan.rate);
    let begun = clock.begun;
    let mut workers = JoinSet::new();
    for (number, connection, seen) in ready {
        let worker = Worker {
            plan: plan.clone(),
            progress: progress.clone(),
            clock,
            number,
            connection: Some(connection),
            seen,
            patience_ends: begun + plan.patience,
        };
        workers.spawn(worker.work(next.clone()));
    }
    let seen = workers.join_all().await;
    let elapsed = begun.elapsed();
    let crowd = &plan.crowd;
    Ok(Tally::sum(&progress, crowd.people(), elapsed, seen, |person| crowd.user_id(person)))
}

fn target(plan: &Plan, number: usize) -> &Target {
    &plan.targets[number % plan.targets.len()]
}

/// One connection and what it sees.
struct Worker {
    plan: Arc<Plan>,
    progress: Arc<Progress>,
    clock: Clock,
    number: usize,
    connection: Option<Connection>,
    seen: Seen,
    patience_ends: Instant,
}

impl Worker {
    async fn work(mut self, next: Arc<AtomicUsize>) -> Seen {
        let path = format!("/v1/coupons/{}/claims", self.plan.coupon_id);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(person) = self.plan.crowd.person(number) else { return self.seen };
            let due = self.clock.turn(number).await;
            self.seen.late += u64::from(due.elapsed() > LATE);
            self.ask_until_answered(&path, person, due).await;
        }
    }

    async fn ask_until_answered(&mut self, path: &str, person: u32, due: Instant) {
        let plan = self.plan.clone();
        let (name, value) = plan.identity.header(&plan.crowd, person);
        let mut asked = due;
        loop {
            let answer = self.ask(path, (name, &value)).await;
            self.seen.note(person, &answer, asked.elapsed());
            self.progress.add(answer.kind);
            if !answer.kind.may_pass() {
                return;
            }
            if Instant::now() > self.patience_ends {
                self.seen.gave_up += 1;
                return;
            }
            sleep(RETRY_PAUSE).await;
            asked = Instant::now();
        }
    }

    async fn ask(&mut self, path: &str, who: (&str, &str)) -> Answer {
        let headers = [who];
        let call = Call { method: Method::POST, path, headers: &headers, body: Vec::new() };
        let answered = match &mut self.connection {
            Some(connection) => connection.send(call).await,
            None => match Connection::open(target(&self.plan, self.number)).await {
                Ok(connection) => self.connection.insert(connection).send(call).await,
                Err(error) => Err(error),
            },
        };
        if let Ok((status, body)) = answered {
            let answer = Answer::read(status, &body);
            if matches!(answer.kind, Kind::Refused | Kind::Failed) && self.seen.unclear.is_none() {
                let body: String = String::from_utf8_lossy(&body).chars().take(200).collect();
                self.seen.unclear = Some(format!("{status} {body}"));
            }
            return answer;
        }
        self.connection = None;
        // The next try may be luckier with another process.
        self.number += 1;
        Answer::no(Kind::NoAnswer)
    }
}
