//! Texts for the cases of findings in mails and alerts.

use crate::report::{ActionKind, Finding, FindingCase, StoreOfDrop};
use crate::wording::count;

/// Summarizes `n` findings of this case in one line, if the case has a text.
pub(crate) fn summary(case: &FindingCase, n: usize) -> Option<String> {
    Some(match case {
        FindingCase::Plain
        | FindingCase::MoreLeft(_)
        | FindingCase::ConsumerStands
        | FindingCase::Unsafe(_)
        | FindingCase::Unworkable(_)
        | FindingCase::SettingsDiffer
        | FindingCase::AllowListDiffers
        | FindingCase::RunFailed(_) => {
            return None;
        }
        FindingCase::NoSlotLeft => failed_claims(n, "no slot is left"),
        FindingCase::NoSuchSlot => failed_claims(n, "the drop has no such slot"),
        FindingCase::NamesNobody => failed_claims(n, "no user is named"),
        FindingCase::NamesNoDrop(_) => failed_claims(n, "no live drop is named"),
        FindingCase::Unreadable => format!(
            "Kafka holds {} that cannot be read",
            count(n, "batch", "batches")
        ),
        FindingCase::RowRefused(_) => format!("MySQL refuses {}", count(n, "row", "rows")),
        FindingCase::NoUserId => count(
            n,
            "name in Redis is no user id",
            "names in Redis are no user ids",
        ),
        FindingCase::KeyOfWrongType { .. } => "a key in Redis has the wrong type".to_owned(),
        FindingCase::RowsLocked => "another client of MySQL has locked rows".to_owned(),
        FindingCase::ReadAgain(partitions) => {
            format!(
                "the topic is read again on {}",
                count(partitions.len(), "partition", "partitions")
            )
        }
    })
}

/// Names the coupon or drop of a finding that is in no drop's report. Returns `None` if its detail
/// names them, or if it concerns neither.
pub(crate) fn place(finding: &Finding) -> Option<String> {
    match (finding.drop_id, finding.coupon_id) {
        _ if finding.action == ActionKind::OpenGate => None,
        (Some(drop), Some(coupon)) => Some(format!("drop {drop} of coupon {coupon}")),
        (Some(drop), None) => Some(format!("drop {drop}")),
        (None, Some(coupon)) => Some(format!("coupon {coupon}")),
        (None, None) => None,
    }
}

/// Returns in short why a drop cannot be compared. The run contains the store's error.
pub(crate) fn foreign(store: StoreOfDrop) -> &'static str {
    match store {
        StoreOfDrop::Redis => {
            "no pass can compare or repair this drop, since Redis holds something that Firstcome did not write"
        }
        StoreOfDrop::Mysql => {
            "no pass can compare or repair this drop, since MySQL holds something that Firstcome did not write"
        }
    }
}

fn failed_claims(n: usize, why: &str) -> String {
    format!(
        "{}: {why}",
        count(n, "unrepaired failed claim", "unrepaired failed claims")
    )
}
