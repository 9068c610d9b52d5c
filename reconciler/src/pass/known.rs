//! How many users each drop has, kept for the time after a loss of Redis: a drop is rebuilt from
//! rows, unread messages and failed claims, and whoever is named by none of them is not back.

use std::collections::HashMap;

use chrono::Utc;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::known_admissions::KnownAdmissions;

use super::steps::Pass;
use crate::report::{ActionKind, DropReport, Finding, FindingCase, Kind, Outcome};

impl Pass<'_> {
    /// Compares drops that were rebuilt with what an earlier pass knew of them, and notes what this
    /// one has seen. `revoked`: the revocations of each drop that was compared.
    pub(super) async fn compare_with_known(&mut self, revoked: &HashMap<DropId, u64>) {
        if let Err(error) = self.try_to_compare(revoked).await {
            tracing::warn!(%error, "how many users the drops have could not be compared or noted");
        }
    }

    async fn try_to_compare(&mut self, revoked: &HashMap<DropId, u64>) -> Result<(), DbError> {
        let (db, noted) = (&self.stores.db, &mut self.memory.users);
        let rebuilt = self.run.drops.iter().filter(|report| is_rebuilt(report)).map(|report| report.drop_id);
        let rebuilt: Vec<DropId> = rebuilt.collect();
        let known = if rebuilt.is_empty() { HashMap::new() } else { db.known_admissions(rebuilt).await? };
        let mut changed = Vec::new();
        for report in &mut self.run.drops {
            let (drop, is_rebuilt) = (report.drop_id, is_rebuilt(report));
            let Some(revoked) = revoked.get(&drop).filter(|_| !report.unconfirmed) else { continue };
            if is_rebuilt {
                compare(report, known.get(&drop), *revoked);
            }
            let users = report.after.users + revoked;
            if is_rebuilt || noted.get(&drop) != Some(&users) {
                changed.push((drop, users));
            }
        }
        if !changed.is_empty() {
            db.note_admissions(changed.clone(), Utc::now().naive_utc()).await?;
            noted.extend(changed);
        }
        Ok(())
    }
}

fn is_rebuilt(report: &DropReport) -> bool {
    let rebuilds = |finding: &Finding| finding.action == ActionKind::Rebuild && finding.result == Outcome::Applied;
    report.findings.iter().any(rebuilds)
}

/// Adds to a rebuilt drop's report how many are back, and a problem if there were more.
fn compare(report: &mut DropReport, known: Option<&KnownAdmissions>, revoked: u64) {
    let back = report.after.users;
    let before = known.map(|known| known.users.saturating_sub(revoked));
    for finding in report.findings.iter_mut().filter(|finding| finding.action == ActionKind::Rebuild) {
        finding.case = FindingCase::Rebuilt { back, known: before };
    }
    let (Some(known), Some(before)) = (known, before.filter(|before| *before > back)) else { return };
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
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::CouponId;

    use super::*;
    use crate::report::{Examined, Numbers};

    fn rebuilt(back: u64) -> DropReport {
        let rebuilt =
            Finding::general(Kind::RedisLost, ActionKind::Rebuild, "Redis does not have this drop".to_owned());
        DropReport {
            coupon_id: CouponId(1),
            coupon_name: "Lunch".to_owned(),
            drop_id: DropId(7),
            quantity: 100,
            exact: true,
            sealed: false,
            before: Numbers::default(),
            after: Numbers { users: back, ..Numbers::default() },
            unconfirmed: false,
            examined: Examined::default(),
            findings: vec![Finding { result: Outcome::Applied, needs_person: false, ..rebuilt }],
        }
    }

    #[test]
    fn only_people_who_were_there_and_were_not_revoked_are_missing() {
        let seen_at = DateTime::from_timestamp(1_796_104_800, 0).unwrap().naive_utc();
        for (known, revoked, back, missing) in [
            (Some(20), 0, 0, Some(20)),
            (Some(20), 0, 20, None),
            (Some(20), 0, 25, None),
            (Some(20), 3, 17, None),
            (Some(20), 3, 16, Some(1)),
            (None, 0, 0, None),
        ] {
            let known = known.map(|users| KnownAdmissions { users, seen_at });
            let mut report = rebuilt(back);
            compare(&mut report, known.as_ref(), revoked);
            let before = known.map(|known| known.users - revoked);
            assert_eq!(report.findings[0].case, FindingCase::Rebuilt { back, known: before });
            let found = report.findings.get(1).map(|finding| finding.case.clone());
            assert_eq!((found, report.exact), (missing.map(FindingCase::UsersMissing), missing.is_none()), "{known:?}");
        }
    }
}
