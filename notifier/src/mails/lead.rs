//! The first sentences of a mail: what happened, what users notice, and whether an operator is
//! needed.

use super::summary::{PassSummary, of_coupons};
use crate::wording::count;

/// Writes the sentences; the first one is the title of the mail.
pub(super) fn lead(summary: &PassSummary<'_>) -> Vec<String> {
    let mail = summary.mail;
    let mut lead = Vec::new();
    if let Some(first) = summary.sections.first() {
        lead.push(first.title.clone());
        lead.push(first.facts.users.to_owned());
    }
    if let [_, others @ ..] = mail.problems
        && !others.is_empty()
    {
        let [one, many] = ["more problem is", "more problems are"];
        let others = count(others.len() as u64, one, many);
        lead.push(format!("{others} below."));
    }
    match mail.resolved {
        [] => {}
        [one] => lead.push(summary.over(one)),
        many => lead.push(format!("{} earlier problems are over.", many.len())),
    }
    lead.extend(lost_data(summary));
    if !summary.done.is_empty() {
        lead.push(format!("{}: {}.", summary.repaired_how(), summary.done));
    }
    if mail.problems.is_empty() {
        lead.extend(single_drop(summary));
        lead.push(what_is_needed(summary).to_owned());
    }
    lead
}

/// Says what Redis has lost, and what that means for users.
fn lost_data(summary: &PassSummary<'_>) -> Vec<String> {
    if !summary.lost.is_empty() {
        let of = of_coupons(&summary.lost);
        let mut said = vec![format!(
            "Redis lost data{of}, and was written again from the rows."
        )];
        if summary.mail.has_waiting_list {
            let waiting = "Waiting lists are lost: people who waited must claim again.";
            said.push(waiting.to_owned());
        }
        return said;
    }
    let Some(since) = summary.older_since else {
        return Vec::new();
    };
    let since = since.format("%H:%M UTC");
    let written = format!(
        "Redis may have come back with older data at {since}, and was written again from the rows."
    );
    let mut said = vec![written];
    if summary.mail.has_waiting_list {
        let waiting = "If so, people who joined a waiting list after that copy must claim again.";
        said.push(waiting.to_owned());
    }
    said
}

/// Gives the state of the drop after the pass, if the mail is about only one drop.
fn single_drop(summary: &PassSummary<'_>) -> Option<String> {
    let [drop] = summary.drops else {
        return None;
    };
    let report = drop.report?;
    let exactness = match (
        report.exact,
        report.after.rows == u64::from(report.quantity),
    ) {
        (true, true) => "exact",
        (true, false) => "everybody admitted has a row",
        (false, _) => "not exact yet",
    };
    Some(format!("{}: {}, {exactness}.", drop.name, drop.issued()))
}

/// Says what an operator has to do if the mail has no problem.
fn what_is_needed(summary: &PassSummary<'_>) -> &'static str {
    if summary.has_failed() {
        "The pass stopped early. The next one continues, and a mail says if anything is left."
    } else if summary.is_left_out() {
        "Nothing compares it any more: what is left can only be repaired by hand."
    } else if !summary.is_compared {
        "The next pass compares again, and a mail says if something is left."
    } else if summary.mail.has_waiting_list
        && (!summary.lost.is_empty() || summary.older_since.is_some())
    {
        "Nothing needs to be done about it tonight; those who run the coupons may want to tell the \
            people who waited."
    } else if summary.earlier_repairs.is_empty() || !summary.mail.resolved.is_empty() {
        "Nothing needs to be done about it."
    } else {
        "It can wait until morning: then find out what makes repairs necessary."
    }
}
