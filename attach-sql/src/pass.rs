//! A pass over the campaigns of a file.

use std::collections::BTreeSet;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{Outcome, Run};

/// What a pass is asked to do.
#[derive(Debug, Clone, Default)]
pub struct PassOptions {
    /// Only this campaign; `None`: all.
    pub campaign: Option<CouponId>,
    /// Change nothing, list the repairs.
    pub dry_run: bool,
    /// An operator asked for it: campaigns that rest are looked at, too.
    pub is_requested: bool,
    pub confirm: Option<Confirm>,
}

/// The users whose repairs an operator has confirmed, by name.
#[derive(Debug, Clone, Default)]
pub struct Confirm(pub BTreeSet<(DropId, String)>);

impl Confirm {
    /// Returns the users whose repairs a run has shown.
    pub fn shown_by(run: &Run) -> Self {
        let planned = run
            .all_findings()
            .filter(|it| it.result == Outcome::Planned);
        let named = planned.filter_map(|it| Some((it.drop_id?, it.user_id.clone()?)));
        Self(named.collect())
    }
}

/// What only an operator may see: it has the values of users.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Commands that a person may run, and the statements of the first repair that waits.
    pub commands: Vec<String>,
}

/// The process was told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;
