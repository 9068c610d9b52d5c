//! A pass: its view, taken in one step, and its repairs.

use super::{Ban, Revoking, Seen, State, Wrong};

impl Revoking {
    pub(super) fn look(state: &mut State, at: usize) {
        let message = state.topic[usize::from(state.read)..]
            .iter()
            .copied()
            .find(|claim| !state.ban.voids(*claim));
        let redis = state.redis;
        let row = state.row;
        state.passes[at] = Some(Seen {
            row,
            message,
            holder: redis.holder,
            ban: state.ban,
            life: redis.life,
            closed: !state.open,
            step: 0,
        });
    }

    /// Performs the repairs, one atomic step each: revocations, users, rows, the gate.
    pub(super) fn repair(&self, state: &mut State, at: usize) {
        let Some(mut seen) = state.passes[at].take() else {
            return;
        };
        let same_life = seen.life == state.redis.life;
        let restores = !(seen.closed && self.is(Wrong::NotRestored));
        match seen.step {
            0 => {
                if restores && seen.ban != Ban::None && same_life {
                    self.restore(state, seen.ban);
                }
            }
            1 => {
                let known = seen.row.or(seen
                    .message
                    .filter(|_| seen.closed && seen.holder.is_none()));
                let claim = known.filter(|claim| seen.holder != Some(*claim) && same_life);
                if let Some(claim) = claim {
                    let refused = state.redis.ban.voids(claim) && !self.is(Wrong::PutBackUnchecked);
                    let certain = seen.row.is_some();
                    if !refused && (certain || state.redis.holder.is_none()) {
                        state.redis.holder = Some(claim);
                    }
                }
            }
            2 => {
                // Deletes a void row, which somebody may have written by hand.
                state.row = state
                    .row
                    .filter(|row| !state.ban.voids(*row) || self.is(Wrong::InsertUnchecked));
                if let Some(claim) = seen
                    .holder
                    .filter(|_| seen.row.is_none() && seen.message.is_none())
                {
                    self.insert(state, claim);
                }
            }
            _ => {
                let agrees = seen.holder == seen.row || seen.holder == seen.message;
                let known = seen.ban == state.redis.ban
                    || self.is(Wrong::NotRestored)
                    || self.is(Wrong::NotCompared);
                state.open |= agrees && same_life && known;
                return;
            }
        }
        seen.step += 1;
        state.passes[at] = Some(seen);
    }

    fn restore(&self, state: &mut State, ban: Ban) {
        if ban > state.redis.ban || matches!(ban, Ban::Until(_)) {
            state.redis.ban = ban;
        }
        if !self.is(Wrong::NotCompared) {
            let until = self.release(state);
            if self.may_claim_again {
                Self::lift(state, until);
            }
        }
    }
}
