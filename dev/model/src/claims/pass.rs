//! A pass of a reconciler, one atomic step after the other. It may die or be suspended after each
//! step.
//!
//! ```text
//! open gate:    read rows · read Redis · read rows again and judge · insert rows · promote
//! dirty, or the gate is not (server, era) open:
//!               close by compare-and-set in a new era · wait, barrier, read Redis
//!               · insert rows, store owed users
//!               · unlink · lists · a page of each slot · settings · open
//! ```
//!
//! Rows are inserted, and pages read, with the era `FOR SHARE`. Each script in Redis compares the
//! gate, except `settings.lua`, which compares revisions, and `revoke.lua`.

use super::reconciler::{Closed, OpenView, Page, Reconciler, RedisView, Stage};
use super::state::{State, Way};
use super::stores::{Claim, Gate, Insert, Mysql, Redis, Revoked, Slot};
use super::{Fault, Omitted, Protocol, SLOTS, USERS};

pub fn next_step(protocol: &Protocol, state: &mut State, at: usize) {
    let reconciler = std::mem::replace(&mut state.reconcilers[at], Reconciler::Idle);
    state.reconcilers[at] = match reconciler {
        Reconciler::Idle => begin(protocol, state),
        Reconciler::ReadRedis(view) if state.redis.gate == Some(view.gate) => {
            Reconciler::Judge(view, read_redis(state))
        }
        Reconciler::Judge(view, redis) => judge(protocol, state, &view, redis),
        Reconciler::Close(gate) if state.redis.gate == Some(gate) => close(protocol, state),
        Reconciler::Insert(gate, users) => {
            adopt_returns(protocol, state);
            complete_returns(state);
            state.redis.set(state.mysql.settings, true, false);
            insert_rows(protocol, state, gate.era, users, false);
            owed(state).map_or(Reconciler::Idle, |owed| Reconciler::Promote(gate, owed))
        }
        Reconciler::Promote(gate, owed) => promote(state, gate, owed),
        Reconciler::Closed(mut of, stage) => match project(protocol, state, &mut of, stage) {
            Some(stage) => Reconciler::Closed(of, stage),
            None => Reconciler::Idle,
        },
        // Another pass, or a loss of Redis, changed the gate.
        Reconciler::ReadRedis(_) | Reconciler::Close(_) => Reconciler::Idle,
    };
}

fn read_redis(state: &State) -> RedisView {
    RedisView {
        users: state.redis.users,
        revision: state.redis.revision,
        knows_returns: state.redis.revoked == state.mysql.revoked,
    }
}

fn owed(state: &State) -> Option<[bool; USERS]> {
    let owed = state.mysql.owed;
    owed.contains(&true).then_some(owed)
}

fn begin(protocol: &Protocol, state: &mut State) -> Reconciler {
    adopt(protocol, state);
    adopt_returns(protocol, state);
    move_void_rows(protocol, state);
    let current = |gate: &Gate| gate.open && gate.server == state.server;
    let Some(gate) = state.redis.gate.filter(current) else {
        return close(protocol, state);
    };
    if gate.era < state.mysql.era {
        return close(protocol, state);
    }
    // A higher era on the same server is adopted.
    state.mysql.era = gate.era;
    let is_overdue = |claim: &Claim| !state.has_in_flight(*claim) && is_reached(protocol, state);
    Reconciler::ReadRedis(OpenView {
        gate,
        revision: state.mysql.settings.revision,
        primary: state.primary,
        rows: state.mysql.rows,
        overdue: state.redis.users.map(|claim| claim.filter(is_overdue)),
    })
}

fn move_void_rows(protocol: &Protocol, state: &mut State) {
    if !protocol.omits(Omitted::VoidRowMoved) {
        state.mysql.move_void_rows();
    }
}

/// Gives MySQL a revision that only Redis has, because MySQL has lost it.
fn adopt(protocol: &Protocol, state: &mut State) {
    let redis = state.redis;
    let settings = &mut state.mysql.settings;
    if redis.revision <= settings.revision || protocol.omits(Omitted::Adoption) {
        return;
    }
    match redis.settings {
        Some(newer) if newer.revision > settings.revision => *settings = newer,
        _ => settings.revision = redis.revision,
    }
}

/// Gives MySQL the returns that only Redis has, because MySQL has lost them. Their rows, which are
/// back, go into them.
fn adopt_returns(protocol: &Protocol, state: &mut State) {
    if protocol.omits(Omitted::ReturnAdoption) {
        return;
    }
    let known = state.mysql.revoked;
    for (known, in_redis) in state.mysql.revoked.iter_mut().zip(state.redis.revoked) {
        let adopted = match in_redis {
            Revoked::InProgress if protocol.omits(Omitted::ReturnInProgress) => Revoked::ForGood,
            other => other,
        };
        *known = adopted.max(*known);
    }
    if state.mysql.revoked != known {
        state.mysql.move_void_rows();
    }
}

/// Closes the gate and begins an era above MySQL's and the gate's. [`crate::gate`] has the steps.
/// Does nothing while another pass has closed the coupon, unless that pass loses the lock.
fn close(protocol: &Protocol, state: &mut State) -> Reconciler {
    let closes = |reconciler: &Reconciler| matches!(reconciler, Reconciler::Closed(..));
    if state.reconcilers.iter().any(closes) {
        if !state.may(Fault::LockLost) {
            return Reconciler::Idle;
        }
        state.spend(Fault::LockLost);
    }
    let before = state.redis.gate;
    state.seen.closed_clean |= before.is_some_and(|gate| gate.open) && !state.damaged;
    let era = before.map_or(0, |gate| gate.era).max(state.mysql.era) + 1;
    state.mysql.era = era;
    let gate = Gate {
        server: state.server,
        era,
        open: false,
    };
    state.redis.gate = Some(gate);
    let of = Closed {
        gate,
        primary: state.primary,
        owed: [None; USERS],
    };
    let goes_on = protocol.omits(Omitted::BarrierAgain) && before.is_some();
    if goes_on && before == state.judged {
        state.judged = Some(gate);
        return Reconciler::Closed(of, Stage::Rows(read_redis(state)));
    }
    Reconciler::Closed(of, Stage::Wait)
}

/// Whether every message that matters is read: ends <= position <= ends.
fn is_reached(protocol: &Protocol, state: &State) -> bool {
    let position = state.mysql.position;
    let end = state.end();
    position == end || position > end && protocol.omits(Omitted::PositionInLog)
}

/// Compares what was read from an open Redis with the rows before and after. A difference counts
/// only if both agree.
fn judge(
    protocol: &Protocol,
    state: &State,
    view: &OpenView,
    RedisView {
        users, revision, ..
    }: RedisView,
) -> Reconciler {
    let mysql = &state.mysql;
    let is_ahead =
        revision > mysql.settings.revision && !protocol.omits(Omitted::RevisionWithUsers);
    let is_outdated = state.primary != view.primary || mysql.settings.revision != view.revision;
    if is_outdated || is_ahead {
        return Reconciler::Idle;
    }
    let on = |slot: Slot| users.into_iter().flatten().find(|claim| claim.slot == slot);
    let is_dirty = (1..).zip(view.rows).any(|(slot, row)| {
        let stands = row == mysql.row_on(slot) || protocol.omits(Omitted::RowsAgain);
        row.is_some_and(|row| stands && on(slot).is_none_or(|claim| claim.user != row.user))
    });
    let above = |claim: &Claim| claim.slot > mysql.settings.quantity;
    let undecided = |letter: &Claim| {
        let known = mysql.voids(*letter) || mysql.row_of(letter.user).is_some();
        let agrees = on(letter.slot).is_some_and(|claim| claim.user == letter.user);
        !known && !agrees && mysql.row_on(letter.slot).is_none()
    };
    let vacant = mysql.letters.iter().any(undecided) && !protocol.omits(Omitted::LetterByRedis);
    if is_dirty || vacant || users.iter().flatten().any(above) {
        return Reconciler::Close(view.gate);
    }
    let lacks_row = |claim: &Claim| {
        view.overdue[usize::from(claim.user)] == Some(*claim) && mysql.row_of(claim.user).is_none()
    };
    let unissued = users.map(|claim| claim.filter(lacks_row));
    let is_void = |claim: &Claim| mysql.voids(*claim);
    let has_more = !mysql.letters.is_empty()
        || mysql.owed.contains(&true)
        || users.iter().flatten().any(is_void)
        || mysql.revoked.contains(&Revoked::InProgress)
        || mysql.settings.revision > revision;
    if has_more || unissued != [None; USERS] {
        Reconciler::Insert(view.gate, unissued)
    } else {
        Reconciler::Idle
    }
}

/// Takes the steps of returns that may have been lost.
fn complete_returns(state: &mut State) {
    for user in (0..).take(USERS) {
        let revoked = state.mysql.revoked[usize::from(user)];
        if revoked != Revoked::No {
            let until = state.release(user, revoked);
            let ended = state.end_return(user, until);
            state.release(user, ended);
        }
    }
}

/// Inserts rows of dead letters first, then rows of users whom only Redis has. A user whose slot is
/// taken is owed. At an open gate, this holds only for users of dead letters. Returns whether
/// everything was decided.
fn insert_rows(
    protocol: &Protocol,
    state: &mut State,
    era: u8,
    users: [Option<Claim>; USERS],
    closed: bool,
) -> bool {
    if state.mysql.era != era && !protocol.omits(Omitted::RowsFenced) {
        return false;
    }
    let mut is_whole = true;
    let letters = std::mem::take(&mut state.mysql.letters);
    for claim in letters {
        let agrees = users.contains(&Some(claim));
        let vacant = state.mysql.row_on(claim.slot).is_none();
        let blindly = protocol.omits(Omitted::LetterByRedis);
        let decides = closed || agrees || !vacant || blindly;
        let stays = match decides.then(|| state.mysql.insert(claim)) {
            Some(Insert::Done | Insert::HasRow | Insert::Void) => false,
            Some(Insert::Refused) if !protocol.omits(Omitted::RefusalQuoted) => true,
            Some(Insert::Taken | Insert::Refused) => {
                if !closed || !protocol.omits(Omitted::OwedFirst) {
                    state.owe(claim);
                }
                false
            }
            None => !state.mysql.voids(claim) && state.mysql.row_of(claim.user).is_none(),
        };
        if stays {
            state.mysql.letters.push(claim);
            is_whole = false;
        }
    }
    for claim in users.into_iter().flatten() {
        match state.mysql.insert(claim) {
            Insert::Refused if !protocol.omits(Omitted::RefusalQuoted) => is_whole = false,
            Insert::Taken | Insert::Refused if closed && !protocol.omits(Omitted::OwedFirst) => {
                state.owe(claim);
            }
            Insert::Done | Insert::HasRow | Insert::Void | Insert::Taken | Insert::Refused => {}
        }
    }
    // A promise is kept once its user has a row.
    for user in (0..).take(USERS) {
        if state.mysql.row_of(user).is_some() {
            state.mysql.owed[usize::from(user)] = false;
        }
    }
    is_whole
}

/// Gives owed users the next slots, or puts them at the head of the waiting list. Later passes
/// insert their rows.
fn promote(state: &mut State, gate: Gate, owed: [bool; USERS]) -> Reconciler {
    for user in (0..).take(USERS).filter(|user| owed[usize::from(*user)]) {
        let at = state.clock[usize::from(user)] + 1;
        if state.redis.promote(gate, user, at).is_some() {
            state.clock[usize::from(user)] = at;
        }
    }
    Reconciler::Idle
}

/// Whether the admissions in Redis equal the rows. An admission that a revocation voids equals no
/// row, even if the user has the slot again. A Redis that knows every return has no such admission.
fn is_clean(mysql: &Mysql, users: [Option<Claim>; USERS], compares_times: bool) -> bool {
    let has_row = |claim: &Claim| {
        let row = mysql.row_on(claim.slot);
        let stands = !compares_times || !mysql.voids(*claim);
        stands && row.is_some_and(|row| row.user == claim.user)
    };
    let rows = mysql.rows.iter().flatten().count();
    users.iter().flatten().all(has_row) && users.iter().flatten().count() == rows
}

/// Takes the next step for a closed coupon: rows first, then Redis := rows. `None` ends the pass.
fn project(protocol: &Protocol, state: &mut State, of: &mut Closed, stage: Stage) -> Option<Stage> {
    let era = of.gate.era;
    let fences = !protocol.omits(Omitted::PutFenced);
    let in_redis = state.redis.gate == Some(of.gate) || !fences;
    let is_primary = state.primary == of.primary || protocol.omits(Omitted::OfPrimary);
    let in_mysql = state.mysql.era == era && is_primary;
    match stage {
        Stage::Wait => wait(protocol, state, of.gate),
        Stage::Rows(_) if protocol.omits(Omitted::RowsFirst) => Some(Stage::Unlink),
        Stage::Rows(RedisView {
            users,
            revision,
            knows_returns,
        }) => {
            if revision > state.mysql.settings.revision
                && !protocol.omits(Omitted::RevisionWithUsers)
            {
                adopt(protocol, state);
            }
            adopt_returns(protocol, state);
            move_void_rows(protocol, state);
            let is_whole = insert_rows(protocol, state, era, users, true);
            if protocol.omits(Omitted::OwedFirst) {
                let is_owed = |claim: &Claim| state.mysql.row_of(claim.user).is_none();
                of.owed = users.map(|claim| claim.filter(is_owed));
            }
            let compares_times = !knows_returns && !protocol.omits(Omitted::TimesCompared);
            let is_clean = is_clean(&state.mysql, users, compares_times) && state.redis.adds_up();
            let keys_exist = state.redis.settings.is_some();
            // A claim that MySQL refuses for another reason stays as it is, behind a closed gate.
            match (is_whole, is_clean && keys_exist) {
                (false, _) => Some(Stage::Wait),
                (true, true) => Some(Stage::Read(0, false)),
                (true, false) => Some(Stage::Unlink),
            }
        }
        Stage::Unlink if in_redis => {
            unlink(&mut state.redis);
            Some(Stage::Read(0, true))
        }
        Stage::Read(page, unlinked) => {
            for claim in std::mem::take(&mut of.owed).into_iter().flatten() {
                state.owe(claim);
            }
            let content = read_page(protocol, state, of, page)?;
            Some(Stage::Put(page, unlinked, content))
        }
        Stage::Put(page, unlinked, content) if in_redis => {
            put_page(protocol, state, page, unlinked, content);
            let is_last = !unlinked || usize::from(page) == SLOTS;
            let next = Stage::Read(page + 1, unlinked);
            Some(if is_last { Stage::TakeSettings } else { next })
        }
        Stage::TakeSettings if in_mysql => {
            state.mysql.settings.revision += 1;
            Some(Stage::PutSettings(state.mysql.settings))
        }
        Stage::PutSettings(settings) => {
            state.redis.set(settings, true, true);
            Some(Stage::Open)
        }
        Stage::Open => {
            open(protocol, state, of.gate);
            None
        }
        Stage::Unlink | Stage::Put(..) | Stage::TakeSettings => None,
    }
}

fn wait(protocol: &Protocol, state: &mut State, gate: Gate) -> Option<Stage> {
    let is_over = state.redis.gate != Some(gate);
    let in_flight = state.in_flight.iter().any(|it| it.way != Way::Late);
    let may_go = (!in_flight || protocol.omits(Omitted::Wait))
        && (is_reached(protocol, state) || protocol.omits(Omitted::Barrier));
    match (is_over, may_go) {
        (true, _) => None,
        (false, true) => {
            state.judged = protocol.omits(Omitted::BarrierAgain).then_some(gate);
            Some(Stage::Rows(read_redis(state)))
        }
        (false, false) => Some(Stage::Wait),
    }
}

/// Deletes the drop's keys. Revocations, the waiting list and the highest revision stay.
fn unlink(redis: &mut Redis) {
    redis.users = [None; USERS];
    redis.free = [false; SLOTS];
    redis.count = 0;
    redis.settings = None;
}

/// Reads a page, with the era `FOR SHARE`, and then asks the server whether it is the primary.
/// `None` if the era is a different one, or the server is not the primary.
fn read_page(protocol: &Protocol, state: &State, of: &Closed, page: Slot) -> Option<Page> {
    let is_primary = state.primary == of.primary;
    let demoted = state.demoted.as_ref();
    let mysql = match demoted.filter(|_| !is_primary && protocol.omits(Omitted::OfPrimary)) {
        Some(demoted) => demoted,
        None if is_primary => &state.mysql,
        None => return None,
    };
    if mysql.era != of.gate.era {
        return None;
    }
    if page > 0 {
        return Some(Page::Row(mysql.row_on(page)));
    }
    let slots = mysql.rows.iter().flatten().map(|row| row.slot);
    Some(Page::Lists {
        revoked: mysql.revoked,
        highest: slots.max().unwrap_or(0),
        owed: mysql.owed,
    })
}

fn put_page(protocol: &Protocol, state: &mut State, page: Slot, unlinked: bool, content: Page) {
    let redis = &mut state.redis;
    match content {
        Page::Row(row) => {
            let checks = !protocol.omits(Omitted::PutChecksRevoked);
            redis.put_slot(page, row, checks);
        }
        Page::Lists {
            revoked,
            highest,
            mut owed,
        } => {
            if protocol.omits(Omitted::OwedAtHead) {
                owed = redis.waiting;
            }
            let count = if unlinked { highest } else { redis.count };
            redis.put_lists(revoked, count, owed);
        }
    }
}

fn open(protocol: &Protocol, state: &mut State, gate: Gate) {
    let settings = state.redis.settings;
    let is_current = settings.is_some_and(|settings| settings.revision == state.redis.revision);
    let is_same = state.redis.gate == Some(gate) || protocol.omits(Omitted::PutFenced);
    if is_same && is_current && state.redis.adds_up() && gate.server == state.server {
        state.redis.gate = Some(Gate { open: true, ..gate });
        state.owed_at_opening = state.mysql.owed;
    }
}
