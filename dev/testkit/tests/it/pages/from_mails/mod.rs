//! The links of every kind of mail lead to the screen that solves the problem, on a phone.

mod decided;
mod no_action;
mod phone;
mod restarted;

/// Labels of links that several kinds of mail use.
mod label {
    pub(super) const THIS_PASS: &str = "This pass, with its findings, in a browser";
    pub(super) const LAST_RUNS: &str = "The last runs, in a browser";
    pub(super) const OPEN_PROBLEMS: &str = "All open problems, in a browser";
}
