//! Claims just before midnight whose rows are dated after it, in a drop per day. Their users seem
//! to lack a row of one day, and to be missing in Redis on the next. A second row would be a second
//! coupon, and a user who is added on the next day could not claim there.

use std::collections::BTreeSet;

use chrono::{NaiveDate, TimeDelta};

use crate::config::Target;
use crate::facts::Facts;
use crate::read::Reader;
use crate::{Answer, AttachError};

impl Reader<'_> {
    /// Moves users whose claim and whose row are of two days out of the sets that are repaired.
    pub async fn leave_out_other_days(&mut self, facts: &mut Facts) -> Answer<()> {
        let Some(date) = self.target.date else {
            return Ok(());
        };
        let day = TimeDelta::days(1);
        let unissued = facts.sets.unissued.keys().cloned().collect();
        facts.dated_next = self.on(date + day).with_row_only(unissued).await?;
        for user in &facts.dated_next {
            facts.sets.unissued.remove(user);
        }
        let missing = &facts.sets.missing;
        facts.of_day_before = self.on(date - day).with_claim_only(missing).await?;
        for user in &facts.of_day_before {
            facts.sets.missing.remove(user);
        }
        Ok(())
    }

    /// Returns a reader of the same campaign on another day.
    fn on(&mut self, date: NaiveDate) -> Reader<'_> {
        Reader {
            target: Target {
                date: Some(date),
                ..self.target
            },
            shape: self.shape,
            sql: self.sql,
            keys: self.keys,
        }
    }

    /// Returns which of these users have a row on this day without being members.
    async fn with_row_only(&mut self, users: Vec<String>) -> Answer<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for user in self.with_rows(users).await? {
            if !self.is_member(&user, None).await? {
                found.insert(user);
            }
        }
        Ok(found)
    }

    /// Returns which of these users are members on this day without having a row.
    async fn with_claim_only(&mut self, users: &BTreeSet<String>) -> Answer<BTreeSet<String>> {
        let Some(of) = &self.target.campaign.users else {
            return Ok(BTreeSet::new());
        };
        if users.is_empty() {
            return Ok(BTreeSet::new());
        }
        let members = of.members().map_err(AttachError::Misfit)?;
        let mut claimed = BTreeSet::new();
        let each = |member: Vec<u8>, _| {
            let user = members.decode(&member).map(|it| it.0);
            claimed.extend(user.filter(|user| users.contains(user)));
        };
        self.keys
            .scan(of.kind, &of.name(&self.target), each)
            .await?;
        for user in self.with_rows(claimed.iter().cloned().collect()).await? {
            claimed.remove(&user);
        }
        Ok(claimed)
    }

    /// Returns which of these users have a row on this day, in any spelling.
    async fn with_rows(&mut self, users: Vec<String>) -> Answer<Vec<String>> {
        let of = self.of_rows();
        let equal = self.equal_users(users, self.row_users(), &of).await?;
        Ok(equal.into_iter().map(|(user, _)| user).collect())
    }
}
