//! The result of a check.

use std::fmt;

use crate::violation::Violation;

/// Whether a history shows that every promise was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Violated(Vec<Violation>),
    /// The history proves nothing, for this reason.
    Unknown(String),
}

/// The amount of checked data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    pub operations: usize,
    pub answered: usize,
    pub unknown: usize,
    pub promises: usize,
    pub kept: usize,
    /// Promises that are listed as broken, with or without a final row.
    pub broken: usize,
    /// Requests that were answered with a return or a revocation, including repeated ones.
    pub revoked: usize,
    /// Reads of rows, including the final ones.
    pub reads: usize,
    /// Rows that the final reads returned.
    pub rows: usize,
}

/// A verdict and the amount of checked data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub figures: Figures,
}

impl fmt::Display for Judgement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &self.figures;
        match &self.verdict {
            Verdict::Pass => writeln!(out, "pass")?,
            Verdict::Unknown(why) => writeln!(out, "unknown: {why}")?,
            Verdict::Violated(list) => {
                writeln!(out, "violated: {} violations", list.len())?;
                for violation in list {
                    writeln!(out, "  {violation}")?;
                }
            }
        }
        write!(
            out,
            "{} operations ({} answered, {} unknown), {} promises ({} kept, {} listed as broken), {} reads, {} rows at the end",
            f.operations, f.answered, f.unknown, f.promises, f.kept, f.broken, f.reads, f.rows
        )
    }
}
