//! Refuses files that contradict themselves, or would let a repair write something wrong.

use anyhow::ensure;

use super::{
    Campaign, Columns, CountKey, Done, Duplicates, KeyType, LONGEST_BESIDE_QUEUE, Mode, Scalar,
    StockRow, UsersKey, has_date,
};

impl Campaign {
    fn check_waits(&self) -> anyhow::Result<()> {
        let waits = u32::try_from(self.queue.len() + 1)?;
        ensure!(
            self.queue.is_empty() || self.in_flight() * waits <= LONGEST_BESIDE_QUEUE,
            "in_flight: a pass waits this long {waits} times, before and after each stage of the \
            queue: write at most {:?}",
            LONGEST_BESIDE_QUEUE / waits
        );
        Ok(())
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.name.is_empty() && self.name.len() <= 100,
            "name: write 1 to 100 bytes"
        );
        self.check_names()?;
        self.check_waits()?;
        self.check_quantity()?;
        self.check_keys()?;
        self.check_days()?;
        self.check_values()?;
        if self.mode == Mode::Repair {
            self.check_repairs()?;
        }
        Ok(())
    }

    fn check_quantity(&self) -> anyhow::Result<()> {
        ensure!(
            self.quantity.is_some() != self.quantity_sql.is_some(),
            "quantity: write quantity = 100, or quantity_sql = \"SELECT total FROM event WHERE id = 7\""
        );
        let sql = self.quantity_sql.as_deref().unwrap_or("SELECT");
        let is_select = sql
            .get(..6)
            .is_some_and(|word| word.eq_ignore_ascii_case("select"));
        ensure!(
            is_select && !sql.contains(';'),
            "quantity_sql: write one SELECT of one number"
        );
        let left = self.stock.as_ref().and_then(|it| it.left.as_deref());
        ensure!(
            left.is_none_or(|name| !has_word(sql, name)),
            "quantity_sql: it selects stock.left, which falls with each row; select the whole quantity"
        );
        Ok(())
    }

    /// The keys that are compared with the rows.
    fn keys(&self) -> Vec<&String> {
        let users = self.users.as_ref().map(|it| &it.key);
        let count = self.count.as_ref().map(|it| &it.key);
        users.into_iter().chain(count).collect()
    }

    fn check_keys(&self) -> anyhow::Result<()> {
        let has_column = self.stock.as_ref().and_then(StockRow::column).is_some();
        ensure!(
            has_column || !self.keys().is_empty(),
            "users: write users = {{ key = \"…\", type = \"set\" }}, a count, or a stock with left or \
            given"
        );
        if let Some(Err(why)) = self.users.as_ref().map(UsersKey::members) {
            anyhow::bail!(why);
        }
        ensure!(
            !are_one_key(self.users.as_ref(), self.count.as_ref()),
            "count.key: it is users.key, too, where the counter's field would be taken for a user: \
            leave users out"
        );
        let sale = self.sale.as_ref();
        ensure!(
            sale.is_none_or(|it| it.member.is_none() || it.field.is_none() && it.value.is_none()),
            "sale: write member, or field and value"
        );
        Ok(())
    }

    fn check_days(&self) -> anyhow::Result<()> {
        let is_daily = self.is_daily();
        ensure!(
            self.keys()
                .iter()
                .all(|key| key.contains("{date") == is_daily),
            "{{date}} must stand in every key and in rows.where, or nowhere: a key of one day is \
            compared with the rows of that day"
        );
        ensure!(
            !is_daily || self.time_zone.is_some(),
            "time_zone: write \"Asia/Seoul\""
        );
        ensure!(
            !is_daily || self.ends.is_none(),
            "ends: leave it out: a day ends by itself"
        );
        let failed = self.failed.as_ref();
        ensure!(
            !is_daily || failed.is_none_or(|failed| has_date(&failed.selection())),
            "failed.where: write {{date}} here, too: an event of one day must not become a row \
            of another"
        );
        Ok(())
    }

    fn check_values(&self) -> anyhow::Result<()> {
        let rows = &self.rows;
        let other = rows
            .insert
            .iter()
            .find(|(name, value): &(&String, &Scalar)| {
                rows.of.get(*name).is_some_and(|of| of.first() != *value) || **name == rows.user
            })
            .map(|it| it.0);
        ensure!(
            other.is_none(),
            "rows.insert: leave {other:?} out: where and user say it"
        );
        let unknown = rows.insert.iter().find(|(_, it)| it.is_unknown_word());
        ensure!(
            unknown.is_none(),
            "rows.insert: {unknown:?} would be written as this text: write {{uuid}}, {{random:1}} \
            to {{random:64}}, {{now}}, {{now+30d}}, {{date}} or {{null}}"
        );
        let done = self.failed.as_ref().map(|it| &it.done);
        ensure!(
            !matches!(
                done,
                Some(Done::Column {
                    value: Scalar::AnyOf(_),
                    ..
                })
            ),
            "failed.done: write one value, which processed events get"
        );
        let stock = self.stock.as_ref();
        ensure!(
            stock.is_none_or(|it| it.left.is_none() || it.given.is_none()),
            "stock: write left or given, not both"
        );
        let of_stock = stock.into_iter().flat_map(|it| it.of.values());
        let mut single = rows.insert.values().chain(of_stock);
        ensure!(
            !single.any(|it| matches!(it, Scalar::AnyOf(_))),
            "a list of values is for where and failed.skip only"
        );
        let of_events = self
            .failed
            .iter()
            .flat_map(|it| it.of.iter().flatten().chain(&it.skip));
        let mut lists = rows.of.iter().chain(of_events);
        ensure!(
            !lists.any(|(_, value): (&String, &Scalar)| {
                let all = value.all();
                all.is_empty() || all.iter().any(|it| matches!(it, Scalar::AnyOf(_)))
            }),
            "where: write at least one value in a list, and no list in it"
        );
        Ok(())
    }

    /// Refuses an address where a name belongs: names are printed, and addresses may contain
    /// passwords.
    fn check_names(&self) -> anyhow::Result<()> {
        let users = self.users.as_ref().map(|it| ("users.key", &it.key));
        let count = self.count.as_ref().map(|it| ("count.key", &it.key));
        let sale = self.sale.as_ref().map(|it| ("sale.key", &it.key));
        let failed = self.failed.as_ref().map(|it| ("failed.table", &it.table));
        let stock = self.stock.as_ref().map(|it| ("stock.table", &it.table));
        let named = [("rows.table", &self.rows.table)];
        let optional = [users, count, sale, failed, stock].into_iter().flatten();
        for (field, text) in named.into_iter().chain(optional) {
            ensure!(
                !text.contains("://"),
                "{field}: that is an address: it belongs to `database` or `redis`"
            );
        }
        Ok(())
    }

    /// Refuses settings that would let a repair write something wrong.
    fn check_repairs(&self) -> anyhow::Result<()> {
        let rows = &self.rows;
        let is_locked = rows.duplicates == Some(Duplicates::Locked);
        ensure!(
            !is_locked || self.stock.is_some(),
            "duplicates = \"locked\" needs the row that their writers lock: write stock = {{ \
            table = \"…\", where = {{ id = 7 }} }}"
        );
        let users = self.users.as_ref();
        let is_sorted = users.is_some_and(|it| it.kind == KeyType::SortedSet);
        ensure!(
            !is_sorted || rows.order.is_some(),
            "rows.order: name a column: a member of a sorted set gets its time or number as score"
        );
        let has_where = self.failed.as_ref().is_none_or(|it| it.of.is_some());
        ensure!(
            has_where || rows.of.is_empty(),
            "failed.where: say which events are of this campaign, as rows.where does; where = \
            {{}} if all are"
        );
        let column = self.stock.as_ref().and_then(StockRow::column);
        ensure!(
            column.is_none() || is_locked,
            "stock: a column that counts needs duplicates = \"locked\": writers that do not lock \
            the row overwrite it"
        );
        Ok(())
    }

    fn names_users(&self) -> bool {
        self.users.is_some() || self.failed.is_some()
    }

    /// Whether two campaigns have the same users, counter, rows or failed events. If either is
    /// repaired, it is enough that one row or event could fulfil the conditions of both. Rows are
    /// not compared if one of the campaigns names no users and only counts rows, as one for each
    /// stock of an event does.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let users = self.users.as_ref().zip(other.users.as_ref());
        let count = self.count.as_ref().zip(other.count.as_ref());
        let failed = self.failed.as_ref().zip(other.failed.as_ref());
        let is_repaired = self.mode == Mode::Repair || other.mode == Mode::Repair;
        let are_same =
            |a: &Columns, b: &Columns| a == b || is_repaired && apart(a, b).next().is_none();
        users.is_some_and(|(a, b)| a.key == b.key)
            || are_one_key(self.users.as_ref(), other.count.as_ref())
            || are_one_key(other.users.as_ref(), self.count.as_ref())
            || count.is_some_and(|(a, b)| (&a.key, &a.field) == (&b.key, &b.field))
            || self.rows.table == other.rows.table
                && self.names_users()
                && other.names_users()
                && are_same(&self.rows.of, &other.rows.of)
            || failed.is_some_and(|(a, b)| {
                a.table == b.table && are_same(&a.selection(), &b.selection())
            })
    }
}

/// Whether users and counter have the same key, such as a hash with a field for the counter.
fn are_one_key(users: Option<&UsersKey>, count: Option<&CountKey>) -> bool {
    let keys = users.zip(count);
    keys.is_some_and(|(users, count)| users.key == count.key)
}

/// The columns in which the two conditions have no value in common, so that no row fulfils both.
pub(super) fn apart<'a>(a: &'a Columns, b: &'a Columns) -> impl Iterator<Item = &'a String> {
    let columns = a.iter().filter(|(name, values)| {
        let others = b.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        others.is_some_and(|(_, others)| {
            let others: Vec<String> = others.all().iter().map(Scalar::in_mysql).collect();
            let mut values = values.all().iter().map(Scalar::in_mysql);
            values.all(|value| !others.contains(&value))
        })
    });
    columns.map(|it| it.0)
}

/// Whether a statement contains this word.
fn has_word(sql: &str, word: &str) -> bool {
    let mut words = sql.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|it| it.eq_ignore_ascii_case(word))
}
