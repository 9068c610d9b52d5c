//! Convergence: once faults stop, while all users retry and the reconciler runs passes, the system
//! must become exact.

use super::state::{Reconciler, State};
use super::step::End;
use super::{PEOPLE, Protocol, Step, step};

/// Maximum number of rounds until nothing changes. Each round has one pass, and rebuilding a lost
/// Redis takes three rounds.
const ROUNDS: usize = 8;

/// Whether a state converges: every promise has its row on its slot or is listed as broken, and
/// every slot is issued, since there are more users than slots.
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
    state.gate_open
        && state.rows.iter().all(Option::is_some)
        && state
            .standing()
            .all(|(person, slot)| state.row_on(*slot) == Some(*person))
}

/// First completes everything in progress: messages, late loaders, old repair plans.
fn finish_what_is_begun(protocol: &Protocol, state: &mut State) {
    publish_all(protocol, state);
    if state.loader.is_some() {
        step::take(protocol, state, Step::LoadLate);
    }
    for at in 0..state.reconcilers.len() {
        finish_pass(protocol, state, at);
        state.reconcilers[at] = Reconciler::Idle;
    }
    state.tidy();
}

fn one_round(protocol: &Protocol, state: &mut State) {
    while state.in_hand.is_some() || !state.tail().is_empty() {
        let mut steps = Vec::new();
        step::possible(
            &Protocol {
                faults: super::Faults::default(),
                ..protocol.clone()
            },
            state,
            &mut steps,
        );
        let consumer = [Step::Fetch, Step::Write];
        let Some(next) = steps.into_iter().find(|step| consumer.contains(step)) else {
            break;
        };
        step::take(protocol, state, next);
    }
    state.begin(0);
    finish_pass(protocol, state, 0);
    for person in (0_u8..).take(PEOPLE) {
        step::ask(protocol, state, person);
        publish_all(protocol, state);
    }
    state.tidy();
}

fn publish_all(protocol: &Protocol, state: &mut State) {
    for again in [false, true] {
        while !(if again {
            &state.again
        } else {
            &state.publishing
        })
        .is_empty()
        {
            step::publish(protocol, state, again, 0, End::Acknowledged);
        }
    }
}

fn finish_pass(protocol: &Protocol, state: &mut State, at: usize) {
    if matches!(state.reconcilers[at], Reconciler::Begun(_)) {
        state.look(protocol, at);
    }
    while matches!(state.reconcilers[at], Reconciler::Repairing { .. }) {
        state.repair(protocol, at);
    }
}
