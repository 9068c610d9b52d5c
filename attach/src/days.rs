//! Claims just before midnight whose rows may be dated after it, in a drop per day: their users
//! seem to lack a row of one day, and to be missing in Redis on the next.

use std::collections::BTreeSet;

use chrono::{NaiveDate, TimeDelta};

use crate::Answer;
use crate::config::{Target, UsersMean};
use crate::facts::Facts;
use crate::read::Reader;

impl Reader<'_> {
    /// Finds the users whose row may be dated the day after their claim: in the drop of yesterday,
    /// those with a row of today; in that of today, those who claimed yesterday and lack that row.
    pub async fn find_dated_late(&mut self, facts: &mut Facts) -> Answer<()> {
        let Some(date) = self.target.date else {
            return Ok(());
        };
        let day = TimeDelta::days(1);
        facts.dated_late = if self.target.is_over {
            let events = facts.failed.iter().map(|event| &event.user);
            let users = facts.sets.unissued.keys().chain(events).cloned().collect();
            self.on(date + day).with_rows(users).await?
        } else if facts.means == Some(UsersMean::Admitted) && !facts.sets.missing.is_empty() {
            let missing = &facts.sets.missing;
            self.on(date - day).promised_without_row(missing).await?
        } else {
            BTreeSet::new()
        };
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

    /// Returns which of these users are members on this day, and have no row. If all coupons of the
    /// day have rows, such members were refused.
    async fn promised_without_row(&mut self, users: &BTreeSet<String>) -> Answer<BTreeSet<String>> {
        let mut promised = self.members_among(users).await?;
        for user in self.with_rows(promised.iter().cloned().collect()).await? {
            promised.remove(&user);
        }
        if !promised.is_empty() && self.count_rows().await? >= self.quantity().await? {
            promised.clear();
        }
        Ok(promised)
    }

    /// Returns which of these users have a row on this day, in any spelling.
    async fn with_rows(&mut self, users: Vec<String>) -> Answer<BTreeSet<String>> {
        let of = self.of_rows();
        let equal = self.equal_users(users, self.row_users(), &of).await?;
        Ok(equal.into_iter().map(|(user, _)| user).collect())
    }
}
