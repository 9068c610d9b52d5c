//! Users, the API, the consumer, the operator, and faults. A reconciler's steps are in
//! [`super::pass`].

use super::pass;
use super::reconciler::Reconciler;
use super::state::{InFlight, Returning, State, Way};
use super::stores::{Admission, Claim, Insert, Redis, Revoked, User};
use super::{Fault, Omitted, Protocol, USERS};

/// The user who returns claims.
const RETURNING: User = 0;
/// The user of the dead letter that is inserted by hand.
const BY_HAND: User = 2;

/// An atomic step of a participant, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A user claims, for the first time or again.
    Claim(User),
    /// Kafka acknowledges an admission, and the user gets a promise.
    Acknowledge(usize),
    /// Kafka does not acknowledge in time, whether the message arrives or not.
    Hang {
        at: usize,
        arrives: bool,
    },
    /// The API's own row is committed.
    Store(usize),
    /// The deadline of the API's own row passes, and the user gets 503.
    Expire(usize),
    ApiDies {
        at: usize,
        arrives: bool,
    },
    /// A return's next step.
    GoOnReturning,
    /// The second step of a change of settings: in Redis.
    FinishChange,
    /// The consumer takes all unread messages.
    Fetch,
    /// The consumer writes the batch and moves the position, in one transaction.
    Write,
    /// The consumer compares MySQL's position with its own, as it does every 5 s.
    ComparePosition,
    ConsumerDies,
    /// A reconciler's next step.
    Reconcile(usize),
    ReconcilerDies(usize),
    CopyRedis,
    CopyMysql,
    RestoreLimits,
    Happen(Fault),
}

/// All steps that are possible now.
pub fn possible(state: &State, steps: &mut Vec<Step>) {
    // Users are interchangeable: the next new user has the lowest number.
    let known = state.clock.iter().take_while(|at| **at > 0).count();
    steps.extend((0..).take(USERS.min(known + 1)).map(Step::Claim));
    let crashes = state.may(Fault::Crash);
    for (at, it) in state.in_flight.iter().enumerate() {
        match it.way {
            // Not modelled: if a recreated log becomes as long as the position before the consumer
            // has compared them, it cannot be distinguished from the old one. The skipped claims
            // are then issued from Redis.
            Way::Publishing if state.mysql.position == state.end() + 1 => {}
            Way::Publishing => {
                steps.push(Step::Acknowledge(at));
                for arrives in [true, false] {
                    let hangs = state.may(Fault::Hang);
                    steps.extend(hangs.then_some(Step::Hang { at, arrives }));
                    steps.extend(crashes.then_some(Step::ApiDies { at, arrives }));
                }
            }
            Way::Fallback => steps.extend([Step::Store(at), Step::Expire(at)]),
            Way::Late => steps.push(Step::Store(at)),
        }
    }
    for (at, reconciler) in state.reconcilers.iter().enumerate() {
        // Reconcilers with the same progress are interchangeable, so one of them is enough.
        let is_first = at == 0 || state.reconcilers[at - 1] != *reconciler;
        steps.extend(is_first.then_some(Step::Reconcile(at)));
        let dies = crashes && *reconciler != Reconciler::Idle;
        steps.extend(dies.then_some(Step::ReconcilerDies(at)));
    }
    let batch = state.consumer.batch.is_some();
    let lags = state.may(Fault::FailoverToOlder) && state.replica.is_none();
    let conditions = [
        (Step::GoOnReturning, state.returning.is_some()),
        (Step::FinishChange, state.changing.is_some()),
        (Step::Fetch, !batch && state.consumer.next < state.end()),
        (Step::Write, batch),
        (Step::ComparePosition, !batch),
        (Step::ConsumerDies, batch && crashes),
        (
            Step::CopyRedis,
            state.may(Fault::GoBack) && state.redis_copy.is_none(),
        ),
        (Step::CopyMysql, lags),
        (Step::RestoreLimits, state.mysql.limits_lost),
    ];
    let possible = conditions.into_iter().filter(|(_, possible)| *possible);
    steps.extend(possible.map(|(step, _)| step));
    let can = state
        .faults
        .iter()
        .filter(|fault| can_happen(state, **fault));
    steps.extend(can.map(|fault| Step::Happen(*fault)));
}

fn can_happen(state: &State, fault: Fault) -> bool {
    let mysql = &state.mysql;
    match fault {
        Fault::Crash | Fault::LockLost | Fault::Hang => false,
        Fault::GoBack => state.redis_copy.is_some_and(|copy| copy != state.redis),
        Fault::FailoverToOlder => state.replica.as_ref().is_some_and(|it| it != mysql),
        // If the topic had unread messages, this and a loss of Redis would be two faults at once
        // that delete every copy of a claim.
        Fault::RecreateTopic => mysql.position == state.end() && state.end() > 0,
        Fault::InsertLetter => mysql.row_on(1).is_none(),
        Fault::InsertVoidRow => {
            let is_ended = matches!(mysql.revoked[usize::from(RETURNING)], Revoked::Until(_));
            is_ended && mysql.row_on(1).is_none()
        }
        Fault::Return => {
            state.returning.is_none() && state.standing().any(|claim| claim.user == RETURNING)
        }
        Fault::Restart | Fault::Flush | Fault::Failover | Fault::LoseLimits => true,
        Fault::Raise | Fault::Pause => state.changing.is_none(),
    }
}

pub fn take(protocol: &Protocol, state: &mut State, step: Step) {
    match step {
        Step::Claim(user) => claim(protocol, state, user),
        Step::Acknowledge(at) => {
            let it = state.in_flight.remove(at);
            state.topic.push(it.claim);
            state.promises.push(it.claim);
        }
        Step::Hang { at, arrives } => {
            state.spend(Fault::Hang);
            state.in_flight[at].way = Way::Fallback;
            state
                .topic
                .extend(arrives.then_some(state.in_flight[at].claim));
        }
        Step::Store(at) => store(protocol, state, at),
        Step::Expire(at) => state.in_flight[at].way = Way::Late,
        Step::ApiDies { at, arrives } => {
            state.spend(Fault::Crash);
            let it = state.in_flight.remove(at);
            state.topic.extend(arrives.then_some(it.claim));
        }
        Step::GoOnReturning => go_on_returning(state),
        Step::FinishChange => {
            if let Some(settings) = state.changing.take() {
                let keeps = !protocol.omits(Omitted::RevisionKept);
                state.redis.set(settings, keeps, false);
                state.pause_answered |= settings.paused;
            }
        }
        Step::Fetch => state.consumer.batch = Some((state.consumer.next, state.end())),
        Step::Write => write(protocol, state),
        Step::ComparePosition => begin_again(protocol, state),
        Step::ConsumerDies => {
            state.spend(Fault::Crash);
            state.consumer.batch = None;
            state.consumer.next = state.mysql.position;
        }
        Step::Reconcile(at) => pass::next_step(protocol, state, at),
        Step::ReconcilerDies(at) => {
            state.spend(Fault::Crash);
            state.reconcilers[at] = Reconciler::Idle;
        }
        Step::CopyRedis => state.redis_copy = Some(state.redis),
        Step::CopyMysql => state.replica = Some(state.mysql.clone()),
        Step::RestoreLimits => state.mysql.limits_lost = false,
        Step::Happen(fault) => {
            state.spend(fault);
            state.damaged |= !matches!(fault, Fault::Return | Fault::Raise | Fault::Pause);
            happen(protocol, state, fault);
        }
    }
    state.excused |= state.is_return_forgotten();
}

fn happen(protocol: &Protocol, state: &mut State, fault: Fault) {
    match fault {
        Fault::Restart => state.server += 1,
        Fault::GoBack => {
            state.server += 1;
            state.redis = state.redis_copy.take().unwrap_or_default();
        }
        Fault::Flush => state.redis = Redis::default(),
        Fault::Failover | Fault::FailoverToOlder => {
            let lags = fault == Fault::FailoverToOlder;
            let promoted = state.replica.take().filter(|_| lags);
            let promoted = promoted.unwrap_or_else(|| state.mysql.clone());
            state.lost = true;
            state.primary += 1;
            let demoted = std::mem::replace(&mut state.mysql, promoted);
            state.demoted = protocol.omits(Omitted::OfPrimary).then_some(demoted);
            // Transactions on the old primary fail.
            state.in_flight.retain(|it| it.way == Way::Publishing);
        }
        Fault::RecreateTopic => {
            state.topic.clear();
            state.lost = true;
        }
        Fault::LoseLimits => state.mysql.limits_lost = true,
        Fault::InsertLetter => {
            let at = state.next_time(BY_HAND);
            state.mysql.letters.push(Claim {
                user: BY_HAND,
                slot: 1,
                at,
            });
        }
        Fault::InsertVoidRow => {
            state.excused = true;
            state.lost = true;
            if let Revoked::Until(at) = state.mysql.revoked[usize::from(RETURNING)] {
                state.mysql.rows[0] = Some(Claim {
                    user: RETURNING,
                    slot: 1,
                    at,
                });
            }
        }
        Fault::Return => {
            let place = usize::from(RETURNING);
            state.mysql.revoked[place] = Revoked::InProgress;
            state.mysql.move_void_rows();
            state.mysql.owed[place] = false;
            state.returned[place] = Revoked::InProgress;
            state.returning = Some(Returning::Release);
        }
        Fault::Raise | Fault::Pause => {
            let settings = &mut state.mysql.settings;
            settings.revision += 1;
            settings.quantity = 2;
            settings.paused = fault == Fault::Pause;
            state.changing = Some(*settings);
        }
        Fault::Crash | Fault::LockLost | Fault::Hang => {}
    }
}

fn go_on_returning(state: &mut State) {
    state.returning = match state.returning {
        Some(Returning::Release) => {
            let until = state.release(RETURNING, Revoked::InProgress);
            Some(Returning::End(until))
        }
        Some(Returning::End(until)) => {
            let recorded = state.end_return(RETURNING, until);
            // The API gives up if MySQL has lost the return.
            (recorded != Revoked::No).then_some(Returning::Tell(recorded))
        }
        Some(Returning::Tell(recorded)) => {
            state.release(RETURNING, recorded);
            None
        }
        None => None,
    };
}

/// Handles a claim, a retry, or `claims/me`.
fn claim(protocol: &Protocol, state: &mut State, user: User) {
    let at = state.clock[usize::from(user)] + 1;
    match state.redis.claim(state.server, user, at) {
        Admission::Accepted(claim) => {
            state.clock[usize::from(user)] = at;
            let overtakes = |other: usize| {
                let owed = state.owed_at_opening[other] && state.mysql.owed[other];
                other != usize::from(user) && owed && state.redis.users[other].is_none()
            };
            state.seen.overtaken |= (0..USERS).any(overtakes);
            state.seen.admitted_while_paused |= state.pause_answered;
            publish(state, claim);
        }
        Admission::Already(claim) => {
            let is_same = |it: &Claim| {
                let by_time = it.at == claim.at || protocol.omits(Omitted::CacheByTime);
                (it.user, it.slot) == (claim.user, claim.slot) && by_time
            };
            let blindly = protocol.omits(Omitted::StoredBeforeTold);
            if blindly || state.promises.iter().any(is_same) {
                let is_void = state.returned[usize::from(user)].voids(claim)
                    && !state
                        .standing()
                        .any(|it| (it.user, it.slot) == (user, claim.slot));
                state.seen.void_told |= is_void && state.returning.is_none();
                state.promises.push(claim);
            } else if !state.has_in_flight(claim) {
                publish(state, claim);
            }
        }
        Admission::Refused => {}
    }
}

fn publish(state: &mut State, claim: Claim) {
    let era = state.redis.gate.map_or(0, |gate| gate.era);
    let way = Way::Publishing;
    state.in_flight.push(InFlight { claim, era, way });
}

/// Runs the API's own transaction, which stops if the era is above that of the admission.
fn store(protocol: &Protocol, state: &mut State, at: usize) {
    let it = state.in_flight.remove(at);
    if state.mysql.era > it.era && !protocol.omits(Omitted::FallbackFenced) {
        return;
    }
    state.mysql.insert(it.claim);
    let row = state.mysql.row_on(it.claim.slot);
    if it.way == Way::Fallback && row.is_some_and(|row| row.user == it.claim.user) {
        state.promises.push(it.claim);
    }
}

/// Reading begins at MySQL's position, or at the first message if the log does not contain it.
fn begin_again(protocol: &Protocol, state: &mut State) {
    if protocol.omits(Omitted::BeginAgain) {
        return;
    }
    if state.mysql.position > state.end() && !protocol.omits(Omitted::PositionReset) {
        state.mysql.position = 0;
    }
    state.consumer.next = state.mysql.position;
}

/// Writes rows, dead letters and the position, in one transaction.
fn write(protocol: &Protocol, state: &mut State) {
    let Some((from, to)) = state.consumer.batch.take() else {
        return;
    };
    let apart = protocol.omits(Omitted::PositionLast);
    let fits = state.mysql.position == from || protocol.omits(Omitted::NoGap);
    let is_second_part = apart && state.mysql.position == to;
    if !(fits || is_second_part || protocol.omits(Omitted::BeginAgain)) {
        begin_again(protocol, state);
        return;
    }
    let end = usize::from(to).min(state.topic.len());
    let mut claims = state
        .topic
        .get(usize::from(from)..end)
        .unwrap_or_default()
        .to_vec();
    if apart && claims.len() > 1 {
        claims.truncate(1);
        state.consumer.batch = Some((from + 1, to));
    }
    for claim in claims {
        if matches!(state.mysql.insert(claim), Insert::Taken | Insert::Refused) {
            state.mysql.letters.push(claim);
        }
    }
    if fits {
        state.mysql.position = to;
    }
    state.consumer.next = to;
}
