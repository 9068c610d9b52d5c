//! Collects the dead letters that need an operator. The first ones are listed, the others only
//! counted.

use std::collections::BTreeMap;

/// Maximum number of dead letters that are listed for each reason.
const BY_NAME: u64 = 10;

/// Number of dead letters by reason, with the IDs of some that are not listed.
#[derive(Debug, Default)]
pub(super) struct DeadLettersLeft(BTreeMap<&'static str, (u64, Vec<i64>)>);

impl DeadLettersLeft {
    /// Counts a dead letter. Returns `true` if the list is full, so that this one is only counted.
    pub(super) fn is_full(&mut self, why: &'static str, id: i64) -> bool {
        let (number, examples) = self.0.entry(why).or_default();
        *number += 1;
        if *number > BY_NAME && examples.len() < 3 {
            examples.push(id);
        }
        *number > BY_NAME
    }

    /// Returns the number of dead letters that are only counted.
    pub(super) fn number(&self) -> u64 {
        let numbers = self.0.values().map(|(number, _)| *number);
        numbers.map(|number| number.saturating_sub(BY_NAME)).sum()
    }

    pub(super) fn summaries(&self) -> Vec<String> {
        let more = self.0.iter().filter(|(_, (number, _))| *number > BY_NAME);
        more.map(|(why, (number, examples))| {
            format!(
                "{} because {why} ({})",
                number - BY_NAME,
                for_example(examples)
            )
        })
        .collect()
    }
}

pub(super) fn for_example(ids: &[i64]) -> String {
    format!(
        "for example {}",
        ids.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    )
}
