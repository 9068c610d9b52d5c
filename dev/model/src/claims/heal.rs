//! Convergence: once the faults are over, while all users retry and passes run, the system must
//! become exact. Rows may keep a pace: while a coupon is closed, the consumer may write nothing for
//! longer than anybody waits, unless a pass that waits for the barrier suspends the pace.

use super::reconciler::Reconciler;
use super::state::{State, Way};
use super::stores::Revoked;
use super::{Omitted, Protocol, Step, USERS, step};

/// Maximum number of rounds until nothing changes. Each round has one pass.
const ROUNDS: usize = 8;
/// More steps than a pass has.
const STEPS: usize = 32;

pub fn becomes_exact(protocol: &Protocol, state: &State) -> bool {
    let mut state = state.clone();
    finish_what_is_begun(protocol, &mut state);
    for _ in 0..ROUNDS {
        let before = state.clone();
        one_round(protocol, &mut state);
        if state == before {
            break;
        }
    }
    is_exact(&state)
}

/// The coupon is open, every message is read, Redis equals the rows, and every promise has its row
/// or is listed. Unless the coupon is paused, every slot is issued, because there are more users
/// than slots.
fn is_exact(state: &State) -> bool {
    let redis = &state.redis;
    let mysql = &state.mysql;
    let open = redis
        .gate
        .is_some_and(|gate| gate.open && gate.server == state.server);
    let agrees = redis.settings.is_some_and(|settings| {
        (settings.quantity, settings.paused) == (mysql.settings.quantity, mysql.settings.paused)
    });
    let mut rows = (1..).zip(mysql.rows);
    let issued = rows.all(|(slot, row)| {
        let holder = redis.holder(slot);
        row.map(|row| row.user) == holder.map(|claim| claim.user)
            && (row.is_some() || slot > mysql.settings.quantity || mysql.settings.paused)
    });
    let kept = state.standing().all(|claim| {
        let row = mysql.row_on(claim.slot);
        row.is_some_and(|row| row.user == claim.user)
    });
    let listed = state.broken.iter().all(|claim| {
        let is_over = state.returned[usize::from(claim.user)].voids(*claim);
        is_over || mysql.row_of(claim.user).is_some() || mysql.owed[usize::from(claim.user)]
    });
    // Users who returned a claim may claim again.
    let ended = |revoked: &[Revoked]| !revoked.iter().any(|one| one.bans());
    let all_ended = ended(&mysql.revoked) && ended(&redis.revoked);
    let all_read = mysql.position == state.end() && mysql.letters.is_empty();
    open && agrees && issued && kept && listed && all_ended && all_read && redis.adds_up()
}

fn finish_what_is_begun(protocol: &Protocol, state: &mut State) {
    step::take(protocol, state, Step::RestoreLimits);
    consume_at_pace(protocol, state);
    send_all(protocol, state);
    while state.returning.is_some() {
        step::take(protocol, state, Step::GoOnReturning);
    }
    step::take(protocol, state, Step::FinishChange);
    for at in 0..state.reconcilers.len() {
        finish_pass(protocol, state, at);
        state.reconcilers[at] = Reconciler::Idle;
    }
    state.tidy();
}

fn one_round(protocol: &Protocol, state: &mut State) {
    consume_at_pace(protocol, state);
    step::take(protocol, state, Step::Reconcile(0));
    finish_pass(protocol, state, 0);
    state.reconcilers[0] = Reconciler::Idle;
    for user in (0..).take(USERS) {
        step::take(protocol, state, Step::Claim(user));
        send_all(protocol, state);
        consume_at_pace(protocol, state);
    }
    state.tidy();
}

fn send_all(protocol: &Protocol, state: &mut State) {
    while let Some(it) = state.in_flight.first() {
        let step = match it.way {
            Way::Publishing => Step::Acknowledge(0),
            Way::Fallback | Way::Late => Step::Store(0),
        };
        step::take(protocol, state, step);
    }
}

/// The pace is so slow that, within a round, messages that are unread at a closed gate stay unread.
fn consume_at_pace(protocol: &Protocol, state: &mut State) {
    if state.redis.gate.is_some_and(|gate| gate.open) {
        consume(protocol, state);
    }
}

fn consume(protocol: &Protocol, state: &mut State) {
    for _ in 0..4 {
        if state.consumer.batch.is_none() {
            step::take(protocol, state, Step::ComparePosition);
        }
        if state.consumer.batch.is_none() && state.consumer.next < state.end() {
            step::take(protocol, state, Step::Fetch);
        }
        step::take(protocol, state, Step::Write);
    }
}

fn finish_pass(protocol: &Protocol, state: &mut State, at: usize) {
    for _ in 0..STEPS {
        if state.reconcilers[at] == Reconciler::Idle {
            return;
        }
        if state.reconcilers[at].waits_for_barrier() && !protocol.omits(Omitted::BarrierUnpaced) {
            consume(protocol, state);
        }
        step::take(protocol, state, Step::Reconcile(at));
    }
}
