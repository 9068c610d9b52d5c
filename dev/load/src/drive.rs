//! Inside the crowd's process: connections that ask, and what they are told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use axum::http::StatusCode;
use firstcome_rush::answer::{Answer, Kind};
use firstcome_rush::clock::Clock;
use firstcome_rush::crowd::Crowd;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::{BUCKET_MS, Latency, Plan, Seen, Wire};

/// Opens all connections, lets the crowd ask, and counts.
pub async fn drive(plan: &Plan) -> Result<Seen> {
    ensure!(plan.target.ip().is_loopback(), "{} is not this machine", plan.target);
    let crowd = Arc::new(Crowd::gather(&plan.prefix, plan.people, plan.each, 1)?);
    let mut wires = Vec::new();
    for number in 0..plan.connections.min(crowd.requests()) {
        let mut wire = Wire::open(plan.target, plan.coupon).await?;
        if plan.warm {
            wire.claim(&format!("{}warm-{number}", plan.prefix)).await?;
        }
        wires.push((wire, Told::new()?));
    }
    let next = Arc::new(AtomicUsize::new(0));
    let mut askers = JoinSet::new();
    // Everything is made before the clock starts: what the crowd is busy with is charged to the server.
    let clock = Clock::start(plan.rate);
    for (wire, told) in wires {
        let asker = Asker { plan: plan.clone(), crowd: crowd.clone(), clock, wire: Some(wire), told };
        askers.spawn(asker.ask_on(next.clone()));
    }
    let told = askers.join_all().await;
    let seconds = clock.begun.elapsed().as_secs_f64();
    Ok(sum(told, &crowd, seconds))
}

/// What one connection was told. Each has its own, so that counting costs no lock.
struct Told {
    counts: [u64; Kind::ALL.len()],
    winners: Histogram<u64>,
    losers: Histogram<u64>,
    yes: Vec<(u32, Kind, u32)>,
    denied: Vec<u32>,
    admissions: Vec<u32>,
}

impl Told {
    fn new() -> Result<Self> {
        let latencies = || Histogram::new_with_bounds(1, 60_000_000, 3);
        Ok(Self {
            counts: [0; Kind::ALL.len()],
            winners: latencies()?,
            losers: latencies()?,
            yes: Vec::new(),
            denied: Vec::new(),
            admissions: Vec::new(),
        })
    }

    fn note(&mut self, person: u32, answer: &Answer, asked: Instant, begun: Instant) {
        self.counts[answer.kind as usize] += 1;
        let micros = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Some(promise) = answer.promise {
            self.yes.push((person, answer.kind, promise.slot));
        }
        if answer.kind == Kind::SoldOut {
            self.denied.push(person);
        }
        if answer.kind == Kind::Accepted {
            self.winners.saturating_record(micros);
            let bucket = usize::try_from(begun.elapsed().as_millis() / u128::from(BUCKET_MS)).unwrap_or(0);
            self.admissions.resize(self.admissions.len().max(bucket + 1), 0);
            self.admissions[bucket] += 1;
        } else {
            self.losers.saturating_record(micros);
        }
    }
}

struct Asker {
    plan: Plan,
    crowd: Arc<Crowd>,
    clock: Clock,
    wire: Option<Wire>,
    told: Told,
}

impl Asker {
    async fn ask_on(mut self, next: Arc<AtomicUsize>) -> Told {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(person) = self.crowd.person(number) else { return self.told };
            let asked = self.clock.turn(number).await;
            let user = self.crowd.user_id(person);
            let answer = self.ask(&user).await;
            self.told.note(person, &answer, asked, self.clock.begun);
        }
    }

    async fn ask(&mut self, user: &str) -> Answer {
        if self.wire.is_none() {
            self.wire = Wire::open(self.plan.target, self.plan.coupon).await.ok();
        }
        let Some(wire) = &mut self.wire else { return Answer::no(Kind::NoAnswer) };
        match wire.claim(user).await {
            Ok((409, body)) if is_sold_out(body) => Answer::no(Kind::SoldOut),
            Ok((status, body)) => Answer::read(StatusCode::from_u16(status).unwrap_or_default(), body),
            Err(_) => {
                self.wire = None;
                Answer::no(Kind::NoAnswer)
            }
        }
    }
}

/// Most answers by far; reading each as JSON would cost this process more than the rest of its work.
fn is_sold_out(body: &[u8]) -> bool {
    const WORD: &[u8] = b"\"code\":\"sold_out\"";
    body.windows(WORD.len()).any(|part| part == WORD)
}

fn sum(told: Vec<Told>, crowd: &Crowd, seconds: f64) -> Seen {
    let mut counts = [0; Kind::ALL.len()];
    let (mut winners, mut losers): (Option<Histogram<u64>>, Option<Histogram<u64>>) = (None, None);
    let (mut yes, mut accepted, mut admissions) = (HashMap::new(), HashSet::new(), Vec::new());
    let (mut holders, mut denied) = (HashSet::new(), HashSet::new());
    for part in told {
        denied.extend(part.denied);
        counts.iter_mut().zip(part.counts).for_each(|(sum, count)| *sum += count);
        add(&mut winners, part.winners);
        add(&mut losers, part.losers);
        for (person, kind, slot) in part.yes {
            holders.insert(person);
            if kind == Kind::Accepted {
                accepted.insert(crowd.user_id(person));
            }
            // The first yes may come from a design that names no slot when asked again.
            let told = yes.entry(crowd.user_id(person)).or_insert(slot);
            *told = (*told).max(slot);
        }
        admissions.resize(admissions.len().max(part.admissions.len()), 0);
        admissions.iter_mut().zip(part.admissions).for_each(|(sum, count)| *sum += count);
    }
    let requests = counts.iter().sum();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people to read")]
    let per_second = requests as f64 / seconds.max(1e-6);
    let answers = Kind::ALL.iter().zip(counts).filter(|(_, n)| *n > 0).map(|(kind, n)| (kind.as_str().to_owned(), n));
    Seen {
        requests,
        seconds,
        per_second,
        answers: answers.collect(),
        winners: winners.and_then(|all| Latency::of(&all)),
        losers: losers.and_then(|all| Latency::of(&all)),
        yes,
        accepted,
        holders_denied: holders.intersection(&denied).count() as u64,
        admissions,
        cpu_seconds: crate::process::cpu_seconds(std::process::id()).unwrap_or(0.0),
    }
}

fn add(sum: &mut Option<Histogram<u64>>, part: Histogram<u64>) {
    match sum {
        // All have the same bounds, so nothing can fall outside.
        Some(sum) => drop(sum.add(part)),
        None => *sum = Some(part),
    }
}
