//! Stores the number of users of each drop, to detect users who are missing after a loss of Redis
//! data. A drop is rebuilt from rows, unread messages and failed claims, so users in none of them
//! are not restored.
//!
//! This is level-triggered: the loss is recorded in MySQL before the first user is restored, and
//! the number from before the loss stays until a pass finds that all users are restored, or an
//! operator accepts the loss. Any pass of any process can therefore complete the work.

use std::collections::HashMap;

use chrono::Utc;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::known_admissions::KnownAdmissions;

use super::steps::Pass;
use crate::report::{ActionKind, DropReport, Finding, FindingCase, Kind, Outcome};

/// Further counts of a comparison, in addition to the users.
#[derive(Debug, Clone, Copy)]
pub(super) struct CountedUsers {
    pub(super) revoked: u64,
    /// Number of users admitted so recently that they may not have been promised a coupon yet.
    pub(super) young: u64,
}

impl Pass<'_> {
    /// Compares drops that Redis had lost with the numbers of an earlier pass, and records the
    /// numbers of this pass.
    pub(super) async fn compare_with_known(&mut self, counted: &HashMap<DropId, CountedUsers>) {
        if let Err(error) = self.try_to_compare(counted).await {
            tracing::warn!(%error, "how many users the drops have could not be compared or noted");
        }
    }

    async fn try_to_compare(
        &mut self,
        counted: &HashMap<DropId, CountedUsers>,
    ) -> Result<(), DbError> {
        let db = &self.stores.db;
        let compared =
            |report: &&DropReport| counted.contains_key(&report.drop_id) && is_settled(report);
        let known = db
            .known_admissions(
                self.run
                    .drops
                    .iter()
                    .filter(compared)
                    .map(|one| one.drop_id)
                    .collect(),
            )
            .await?;
        let mut changed = Vec::new();
        for report in &mut self.run.drops {
            let drop = report.drop_id;
            let Some(counted) = counted.get(&drop).filter(|_| is_settled(report)) else {
                continue;
            };
            let known = known.get(&drop);
            let users = report.after.users.saturating_sub(counted.young) + counted.revoked;
            if !lacks_people(report, known, counted.revoked)
                && known.is_none_or(|known| known.users != users || known.lost_at.is_some())
            {
                changed.push((drop, users));
            }
        }
        if changed.is_empty() || !self.context.knows_the_tail() {
            Ok(())
        } else {
            db.note_admissions(changed, Utc::now().naive_utc()).await
        }
    }

    /// Whether the drop lost users who are not restored. Such a drop must not be sealed, because
    /// passes do not examine sealed drops.
    pub(super) async fn has_users_missing(
        &self,
        drop: DropId,
        users_and_revoked: u64,
    ) -> Result<bool, DbError> {
        let known = self.stores.db.known_admissions(vec![drop]).await?;
        Ok(known
            .get(&drop)
            .is_some_and(|known| known.lost_at.is_some() && known.users > users_and_revoked))
    }
}

/// Whether the drop's numbers were read after the repairs, and no rebuild is pending.
fn is_settled(report: &DropReport) -> bool {
    let is_due = |finding: &Finding| {
        finding.action == ActionKind::Rebuild && finding.result != Outcome::Applied
    };
    !report.unconfirmed && !report.findings.iter().any(is_due)
}

/// Adds the number of restored users to the report of a rebuilt drop, and a finding if the drop had
/// more users before. Returns whether users are missing.
fn lacks_people(report: &mut DropReport, known: Option<&KnownAdmissions>, revoked: u64) -> bool {
    let back = report.after.users;
    let before = known.map(|known| known.users.saturating_sub(revoked));
    for finding in report
        .findings
        .iter_mut()
        .filter(|finding| finding.action == ActionKind::Rebuild)
    {
        finding.case = FindingCase::Rebuilt {
            back,
            known: before,
        };
    }
    let lost = known.filter(|known| known.lost_at.is_some());
    let (Some(known), Some(before)) = (lost, before.filter(|before| *before > back)) else {
        return false;
    };
    let missing = before - back;
    let seen_at = known.seen_at.format("%H:%M UTC on %Y-%m-%d");
    let detail = format!(
        "Redis lost data, and {back} of the {before} users whom a pass at {seen_at} knew are back: {missing} are missing"
    );
    let finding = Finding::general(Kind::RedisLost, ActionKind::Report, detail);
    report.exact = false;
    report.findings.push(Finding {
        coupon_id: Some(report.coupon_id),
        drop_id: Some(report.drop_id),
        case: FindingCase::UsersMissing(missing),
        ..finding
    });
    true
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::CouponId;

    use super::*;
    use crate::report::Numbers;

    fn rebuilt(back: u64) -> DropReport {
        let rebuilt = Finding::general(
            Kind::RedisLost,
            ActionKind::Rebuild,
            "Redis does not have this drop",
        );
        DropReport {
            exact: true,
            after: Numbers {
                users: back,
                ..Numbers::default()
            },
            findings: vec![Finding {
                result: Outcome::Applied,
                needs_person: false,
                ..rebuilt
            }],
            ..DropReport::begun(CouponId(1), DropId(7), 100)
        }
    }

    #[test]
    fn only_known_users_without_a_revocation_count_as_missing() {
        let seen_at = DateTime::from_timestamp(1_796_104_800, 0)
            .unwrap()
            .naive_utc();
        for (known, is_lost, revoked, back, missing) in [
            (Some(20), true, 0, 0, Some(20)),
            (Some(20), true, 0, 20, None),
            (Some(20), true, 0, 25, None),
            (Some(20), true, 3, 17, None),
            (Some(20), true, 3, 16, Some(1)),
            (Some(20), false, 0, 16, None),
            (None, false, 0, 0, None),
        ] {
            let lost_at = is_lost.then_some(seen_at);
            let known = known.map(|users| KnownAdmissions {
                users,
                seen_at,
                lost_at,
            });
            let mut report = rebuilt(back);
            assert_eq!(
                lacks_people(&mut report, known.as_ref(), revoked),
                missing.is_some()
            );
            let before = known.map(|known| known.users - revoked);
            assert_eq!(
                report.findings[0].case,
                FindingCase::Rebuilt {
                    back,
                    known: before
                }
            );
            let found = report.findings.get(1).map(|finding| finding.case.clone());
            assert_eq!(
                (found, report.exact),
                (missing.map(FindingCase::UsersMissing), missing.is_none()),
                "{known:?}"
            );
        }
    }

    #[test]
    fn pending_rebuild_is_neither_compared_nor_recorded() {
        let mut report = rebuilt(0);
        assert!(is_settled(&report));
        report.findings[0].result = Outcome::Skipped;
        assert!(!is_settled(&report));
    }
}
