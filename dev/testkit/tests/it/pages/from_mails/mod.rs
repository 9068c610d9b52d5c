//! For each kind of mail: its links, on a phone, lead to the screen that solves the problem.

mod cured;
mod decided;
mod no_action;
mod phone;
mod restarted;
mod stores;

/// Labels of links that several kinds of mail share.
mod label {
    pub(super) const THIS_PASS: &str = "This pass, with its findings, in a browser";
    pub(super) const LAST_RUNS: &str = "The last runs, in a browser";
    pub(super) const ALL_LIVE: &str = "Run a pass over all live drops, in a browser";
    pub(super) const OPEN_PROBLEMS: &str = "All open problems, in a browser";
}
