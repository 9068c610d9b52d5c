//! What the stores know about a user.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::StoryEvent;

/// What an entry of a store proves. Of several entries, the one whose variant is declared first
/// decides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    Row,
    Revocation,
    BrokenPromise,
    /// Redis has the user on a slot.
    Admission,
    DeadLetter,
    Waiting,
    /// A revocation after which the user may claim again.
    EarlierRevocation,
}

/// What one entry of a store says about the user's state.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) evidence: Evidence,
    /// The drop, or `None` if the entry names none.
    pub(super) drop: Option<DropId>,
    pub(super) slot: Option<i64>,
    pub(super) sentence: String,
}

/// The known facts about a user.
#[derive(Debug, Default)]
pub(super) struct UserFacts {
    pub(super) happenings: Vec<StoryEvent>,
    pub(super) no_longer_known: Vec<String>,
    /// What each entry says about the present.
    pub(super) standings: Vec<Standing>,
    /// The detail of the last finding about the user, if that has failed or needs an operator.
    pub(super) not_repaired: Option<String>,
    /// Whether facts may be missing: Redis could not be read, or does not have a drop whose window
    /// has begun.
    pub(super) is_blind: bool,
}

impl UserFacts {
    pub(super) fn happened(&mut self, at: Option<DateTime<Utc>>, source: &str, what: String) {
        let source = source.to_owned();
        self.happenings.push(StoryEvent { at, source, what });
    }

    pub(super) fn stands(
        &mut self,
        evidence: Evidence,
        drop: DropId,
        slot: Option<i64>,
        sentence: String,
    ) {
        let drop = Some(drop);
        self.standings.push(Standing {
            evidence,
            drop,
            slot,
            sentence,
        });
    }
}
