//! Trust in a campaign's mapping, and the memory of differences that came back after repairs. A
//! wrong mapping is the likeliest fault, and makes every repair wrong; so nothing is repaired until
//! a look with ten users in both stores was clean, or an operator has confirmed a plan of repairs.

use std::collections::HashSet;

use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::runs::{set_state, state};
use firstcome_shared::report::{Finding, Kind, Outcome};
use firstcome_shared::sql;

use crate::config::{AttachFile, Campaign};
use crate::facts::{Facts, recorded};
use crate::judge::Judgement;
use crate::{Answer, Ours};

/// Users who must be members and have rows, so that a clean look proves the mapping.
const PROVES: u64 = 10;

/// Whether the look was clean and proves the mapping.
pub fn is_proof(facts: &Facts, judged: &Judgement) -> bool {
    judged.is_clean() && facts.in_both >= PROVES
}

/// What a clean look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub quantity: u64,
    /// `None` in an older record, which has no number of rows.
    pub rows: Option<u64>,
}

impl Known {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(str::parse);
        Some(Self {
            quantity: numbers.next()?.ok()?,
            rows: numbers.next().and_then(Result::ok),
        })
    }

    /// Whether the quantity fell by as many as rows came. Up to four may be a coincidence. If it is
    /// now the number of rows, a sale was probably closed early; should it be what is left after
    /// half of the sale, no row is inserted, because it allows none.
    pub(crate) fn falls_to(self, quantity: u64, rows: u64) -> bool {
        let fell = self.quantity.saturating_sub(quantity);
        let came = self.rows.map(|before| rows.saturating_sub(before));
        fell > 4 && came == Some(fell) && quantity != rows
    }
}

fn name(campaign: &Campaign) -> String {
    format!("attach.{}", campaign.coupon_id())
}

fn quantity_of(drop: DropId) -> String {
    format!("attach.quantity.{drop}")
}

impl Ours {
    /// Whether repairs of this mapping, as it is in the file now, need no first confirmation.
    pub async fn trusts(&self, file: &AttachFile, campaign: &Campaign) -> Answer<bool> {
        let trusted = self.db.first("trust", state(&name(campaign))).await?;
        Ok(trusted == Some(file.mapping(campaign)))
    }

    pub async fn trust(&self, file: &AttachFile, campaign: &Campaign) -> Answer<()> {
        if !self.trusts(file, campaign).await? {
            let set = set_state(&name(campaign), &file.mapping(campaign));
            self.db.execute("trust", set).await?;
        }
        Ok(())
    }

    /// Returns what the last clean look saw, if there was one. If the quantity has changed since,
    /// somebody may be about to add to the counter what a repair would add, too.
    pub async fn known_quantity(&self, drop: DropId) -> Answer<Option<Known>> {
        let name = quantity_of(drop);
        let known: Option<String> = self.db.first("quantity", state(&name)).await?;
        Ok(known.and_then(|it| Known::parse(&it)))
    }

    pub async fn remember_quantity(&self, drop: DropId, known: Known) -> Answer<()> {
        if self.known_quantity(drop).await? != Some(known) {
            let text = format!("{} {}", known.quantity, known.rows.unwrap_or_default());
            let set = set_state(&quantity_of(drop), &text);
            self.db.execute("quantity", set).await?;
        }
        Ok(())
    }

    /// Returns what was repaired at least twice within the last hour: its kind, and its user.
    pub async fn repaired_twice(&self, drop: DropId) -> Answer<HashSet<(String, String)>> {
        let twice = sql!(
            "SELECT kind, COALESCE(user_id, '') FROM reconcile_findings \
             WHERE drop_id = ? AND result = ? AND created_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR \
             AND (user_id IS NOT NULL OR kind IN (?, ?)) \
             GROUP BY kind, user_id HAVING COUNT(*) >= 2",
            drop,
            Outcome::Applied.as_str(),
            // For other kinds, all users whose names the record cannot hold would count as one.
            Kind::CountMismatch.as_str(),
            Kind::Unfilled.as_str()
        );
        Ok(self.db.all("what came back", twice).await?)
    }

    /// Returns the users whose row MySQL refused within the last day.
    pub async fn failing_users(&self, drop: DropId) -> Answer<HashSet<String>> {
        let failing = sql!(
            "SELECT DISTINCT user_id FROM reconcile_findings \
             WHERE drop_id = ? AND result = ? AND created_at > UTC_TIMESTAMP(3) - INTERVAL 1 DAY \
             AND kind = ? AND user_id IS NOT NULL",
            drop,
            Outcome::Failed.as_str(),
            Kind::Unissued.as_str()
        );
        Ok(self.db.all("who failed", failing).await?)
    }

    /// Returns the users whom repairs have added to Redis, as recorded: the empty name stands for
    /// all users whose ids the record cannot hold.
    pub async fn added_users(&self, drop: DropId) -> Answer<HashSet<String>> {
        let added = sql!(
            "SELECT DISTINCT COALESCE(user_id, '') FROM reconcile_findings \
             WHERE drop_id = ? AND result = ? AND kind = ?",
            drop,
            Outcome::Applied.as_str(),
            Kind::MissingAdmission.as_str()
        );
        Ok(self.db.all("who was added", added).await?)
    }
}

/// Identifies a finding across passes.
pub fn identity(finding: &Finding) -> (String, String) {
    let user = finding.user_id.as_deref().unwrap_or_default();
    (finding.kind.as_str().to_owned(), recorded(user).to_owned())
}

#[cfg(test)]
mod tests {
    use super::Known;

    #[test]
    fn quantity_that_falls_with_rows_is_what_is_left_unless_it_ends_the_sale() {
        let known = Known::parse("100 90").unwrap();
        for (quantity, rows, falls) in [
            (94, 96, true),
            (90, 100, true),
            (95, 95, false),
            (96, 94, false),
            (90, 95, false),
            (100, 95, false),
            (105, 95, false),
        ] {
            assert_eq!(known.falls_to(quantity, rows), falls, "{quantity} {rows}");
        }
        let older = Known::parse("100").unwrap();
        assert!(!older.falls_to(90, 100));
    }
}
