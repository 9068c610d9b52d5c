//! What can be known to be wrong from the file alone. All of it is said at once.

use std::collections::BTreeSet;
use std::fmt::Display;

use toml::{Table, Value};

use super::keys::has_id;
use super::{AttachFile, Campaign, Failed, Mode, Promised, Stage};
use crate::text::{Field, Parameter, Query, Values, numbered};

/// Words whose meaning a statement of the team now has, and the lines to write instead.
const GONE: [[&str; 2]; 9] = [
    [
        "rows",
        "issued = \"SELECT user_id FROM coupon WHERE event_id = 7\"",
    ],
    ["users", "promised = { set = \"coupon:7:users\" }"],
    [
        "quantity_sql",
        "each = \"SELECT id, name, quantity FROM …\"",
    ],
    ["stock", "a second statement in issue, and a check"],
    ["sale", "a check"],
    ["ends", "a condition in each"],
    ["time_zone", "a condition in each"],
    [
        "repair_limit",
        "nothing: at most 50 rows a day are written unasked",
    ],
    [
        "max_rows_per_second",
        "nothing: a campaign rests for ten times what its look took",
    ],
];

/// Returns a sentence for each such word of the file.
pub(super) fn gone(file: &Table) -> Vec<String> {
    let campaigns = file
        .get("campaign")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_table);
    let mut said = Vec::new();
    for table in campaigns.chain([file]) {
        let name = table.get("name").and_then(Value::as_str);
        let place = name.map_or_else(String::new, |name| format!("campaign {name:?}: "));
        let words = GONE.iter().filter(|[word, _]| table.contains_key(*word));
        said.extend(
            words.map(|[word, instead]| format!("{place}`{word}` is gone: write {instead}")),
        );
    }
    said
}

impl Query<'_> {
    fn has(&self, parameter: Parameter) -> bool {
        self.statement.parameters().contains(&parameter)
    }

    fn refusals(&self, campaign: &Campaign) -> Vec<String> {
        let field = self.field;
        let mut written = self.statement.parameters().into_iter();
        let foreign = written.find(|it| !field.parameters().contains(it));
        // One stage may be that of all campaigns, and so may an event's id.
        let may_lack_id = matches!(field, Field::Each | Field::Stage | Field::Resolve);
        let is_check = matches!(field, Field::Check(_));
        let refusals = [
            self.other_words(),
            foreign.map(|it| format!("{field}: {} has no value there", it.name())),
            without_id(campaign, field, self.has(Parameter::Id)).filter(|_| !may_lack_id),
            (is_check && self.always_returns_a_row()).then(|| {
                format!(
                    "{field} always returns a row (COUNT without HAVING): a check returns what is \
                    wrong"
                )
            }),
        ];
        refusals.into_iter().flatten().collect()
    }

    /// Refuses other statements than queries and, to write, `INSERT INTO` and `UPDATE`, and for
    /// `resolve` also `DELETE FROM`: no other one changes exactly what it names, or can be taken
    /// back. In `issue`, a query may lock the row of the next statement, if it does not wait for it:
    /// a transaction that waits for nothing while it holds a lock is part of no deadlock.
    fn other_words(&self) -> Option<String> {
        let [first, second, third] = [0, 1, 2].map(|at| self.statement.word(at));
        let field = self.field;
        if !field.writes() {
            let reads = matches!(first.as_str(), "SELECT" | "WITH");
            let said = format!("{field} begins with {first}: only SELECT or WITH is read");
            return (!reads).then_some(said);
        }
        let is_allowed = match first.as_str() {
            "INSERT" => second == "INTO",
            "UPDATE" => second != "IGNORE" && third != "IGNORE",
            "DELETE" => field == Field::Resolve && second == "FROM",
            "SELECT" => field != Field::Resolve && self.statement.has_word("NOWAIT"),
            _ => false,
        };
        (!is_allowed).then(|| {
            format!(
                "{field} begins with {first} {second}: only INSERT INTO or UPDATE (in resolve also \
                DELETE FROM, in issue SELECT … FOR UPDATE NOWAIT), so that nothing of yours is \
                overwritten"
            )
        })
    }

    /// Whether it selects a number instead of what is wrong.
    fn always_returns_a_row(&self) -> bool {
        let may_be_none = self.statement.has_word("GROUP") || self.statement.has_word("HAVING");
        self.statement.word(1).starts_with("COUNT(") && !may_be_none
    }
}

impl Campaign {
    /// Returns all statements, without their values.
    pub fn queries(&self) -> Vec<Query<'_>> {
        let mut all = Vec::new();
        all.extend(self.each.iter().map(|it| (Field::Each, it)));
        if let Some(Promised::Select(statement)) = &self.promised {
            all.push((Field::Promised, statement));
        }
        all.extend(self.issued.iter().map(|it| (Field::Issued, it)));
        if let Some(Failed::Select(statement)) = &self.failed {
            all.push((Field::Failed, statement));
        }
        all.extend(numbered(Field::Check, self.checks()));
        let stages = self.stages().iter();
        all.extend(stages.filter_map(|stage| match stage {
            Stage::Sql { sql } => Some((Field::Stage, sql)),
            _ => None,
        }));
        all.extend(numbered(Field::Issue, &self.issue));
        all.extend(self.resolve.iter().map(|it| (Field::Resolve, it)));
        let queries = all.into_iter();
        queries
            .map(|(field, statement)| Query::new(field, statement, Values::default()))
            .collect()
    }

    pub fn needs_kafka(&self) -> bool {
        let mut stages = self.stages().iter();
        matches!(self.failed, Some(Failed::Topic(_)))
            || stages.any(|it| matches!(it, Stage::Topic { .. }))
    }

    fn needs_redis(&self) -> bool {
        let mut stages = self.stages().iter();
        !self.keys().is_empty()
            || self.count.is_some()
            || stages.any(|it| it.must_be_empty() || matches!(it, Stage::Stream { .. }))
    }

    /// Refuses keys that are the same for all campaigns of an `each`.
    fn keys_without_id(&self) -> Vec<String> {
        let mut refusals = Vec::new();
        for key in self.keys() {
            refusals.extend(without_id(self, "promised", has_id(&key.name)));
        }
        if let Some(count) = &self.count {
            let field = count.field.as_deref().unwrap_or_default();
            let has_id = has_id(&count.key) || has_id(field);
            refusals.extend(without_id(self, "count.key", has_id));
        }
        for stage in self.stages() {
            // One queue may be that of all campaigns.
            let has_id = self.each.is_some() || has_id(&stage.to_string());
            refusals.extend(without_id(self, "queue", has_id));
        }
        if let Some(Failed::Topic(topic)) = &self.failed {
            let has_id = topic.only.values().any(|value| value.contains(":id"));
            refusals.extend(without_id(self, "failed.where", has_id));
        }
        refusals
    }

    /// Returns what is missing, or does not belong together.
    fn contradictions(&self) -> Vec<&'static str> {
        let is_promised = self.promised.is_some();
        let is_compared = is_promised || self.count.is_some();
        let is_whole = self.whole.is_some();
        let repairs = self.mode == Mode::Repair;
        let names_nobody = !self.issue.is_empty()
            && self
                .issue
                .iter()
                .all(|it| !it.parameters().contains(&Parameter::User));
        let resolve = self.resolve.as_ref();
        let refusals = [
            self.name.trim().is_empty().then_some("name is empty"),
            (!is_whole && self.each.is_some() == self.quantity.is_some())
                .then_some("write each, or quantity"),
            (is_compared && self.issued.is_none())
                .then_some("issued is missing: the rows that answer promises"),
            (!is_compared && self.checks().is_empty())
                .then_some("write promised, count or check: nothing is compared"),
            names_nobody.then_some("issue: no statement names :user"),
            resolve
                .is_some_and(|it| !it.parameters().contains(&Parameter::Failed))
                .then_some("resolve: it must name :failed, the event"),
            (resolve.is_some() && !matches!(self.failed, Some(Failed::Select(_))))
                .then_some("resolve: it needs failed, a SELECT of events"),
            (repairs && !is_promised).then_some("mode = \"repair\": promised is missing"),
            (repairs && self.issue.is_empty()).then_some("mode = \"repair\": issue is missing"),
            (repairs && self.queue.is_none()).then_some(
                "mode = \"repair\": queue: what stands between your answer and the row? [] if the \
                API writes it",
            ),
            (repairs && self.check.is_none()).then_some(
                "mode = \"repair\": check: which of your numbers counts these rows, too? [] if none",
            ),
            self.whole
                .as_ref()
                .is_some_and(|it| it.to_do.trim().is_empty())
                .then_some("to_do: say what to do about the rows"),
        ];
        refusals.into_iter().flatten().collect()
    }
}

impl AttachFile {
    /// Returns everything that is wrong, one sentence each.
    pub(super) fn refusals(&self) -> Vec<String> {
        let mut said = Vec::new();
        if self.campaigns.is_empty() {
            said.push("the file has neither a [[campaign]] nor a [[check]]".to_owned());
        }
        let mut ids = BTreeSet::new();
        for campaign in &self.campaigns {
            let mut wrong = campaign.keys_without_id();
            let queries = campaign.queries().into_iter();
            wrong.extend(queries.flat_map(|query| query.refusals(campaign)));
            let addresses = [
                (campaign.needs_redis() && self.redis.is_none())
                    .then_some("redis: its address is missing at the top of the file"),
                (campaign.needs_kafka() && self.kafka.is_none())
                    .then_some("kafka: its address is missing at the top of the file"),
                (!ids.insert(campaign.coupon_id())).then_some("another one has this name"),
            ];
            wrong.extend(campaign.contradictions().into_iter().map(str::to_owned));
            wrong.extend(addresses.into_iter().flatten().map(str::to_owned));
            let name = &campaign.name;
            said.extend(
                wrong
                    .into_iter()
                    .map(|why| format!("campaign {name:?}: {why}")),
            );
        }
        said
    }
}

/// Refuses what is the same for all campaigns of an `each`, and an id where there is none.
fn without_id(campaign: &Campaign, field: impl Display, has_id: bool) -> Option<String> {
    match (&campaign.each, has_id) {
        (Some(_), false) => Some(format!(
            "{field}: without the id, all campaigns of each would read or write the same"
        )),
        (None, true) => Some(format!(
            "{field}: the id comes from each, which is missing: write each instead of quantity, or \
            the campaign's id itself"
        )),
        (Some(_), true) | (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Statement;

    fn refused(text: &str, field: Field) -> bool {
        let statement = Statement::new(text);
        let query = Query::new(field, &statement, Values::default());
        query.other_words().is_some()
    }

    #[test]
    fn only_queries_are_read_and_only_inserts_and_updates_are_written() {
        assert!(!refused("select 1", Field::Issued));
        assert!(!refused("\n WITH a AS (SELECT 1) SELECT 2", Field::Issued));
        assert!(refused("UPDATE a SET b = 1", Field::Issued));
        assert!(!refused("INSERT INTO a VALUES (1)", Field::Issue(1)));
        assert!(!refused("update a set b = 1", Field::Issue(1)));
        let locks = "SELECT 1 FROM a FOR UPDATE";
        assert!(refused(locks, Field::Issue(1)));
        assert!(!refused(&format!("{locks} NOWAIT"), Field::Issue(1)));
        assert!(refused(&format!("{locks} NOWAIT"), Field::Resolve));
        for text in [
            "INSERT IGNORE INTO a VALUES (1)",
            "UPDATE IGNORE a SET b = 1",
            "UPDATE LOW_PRIORITY IGNORE a SET b = 1",
            "REPLACE INTO a VALUES (1)",
            "DELETE FROM a",
            "CALL give()",
            "COMMIT",
            "",
        ] {
            assert!(refused(text, Field::Issue(1)), "{text}");
        }
        assert!(!refused("DELETE FROM a", Field::Resolve));
    }

    #[test]
    fn what_is_missing_beside_a_line_is_said_when_the_file_is_read() {
        for (line, expected) in [
            ("queue = [{ list = 'q' }]", "redis: its address"),
            ("queue = [{ sorted_set = 'q' }]", "redis: its address"),
            (
                "queue = [{ stream = 's', group = 'g' }]",
                "redis: its address",
            ),
            (
                "queue = [{ kafka = 't', group = 'g' }]",
                "kafka: its address",
            ),
            (
                "failed = { topic = 't', user = '/u' }",
                "kafka: its address",
            ),
            (
                "issue = ['INSERT INTO a VALUES (7)']",
                "issue: no statement names :user",
            ),
            (
                "queue = [{ list = 'q:{id}' }]",
                "queue: the id comes from each",
            ),
        ] {
            let text = format!(
                "database = 'mysql://x/y'\n[[campaign]]\nname = 'Winter'\nquantity = 9\n\
                check = ['SELECT id FROM a']\n{line}"
            );
            let said = AttachFile::parse(&text).unwrap_err().to_string();
            assert!(said.contains(expected), "{line}: {said}");
        }
    }

    #[test]
    fn old_words_are_answered_with_the_line_to_write() {
        let file = r#"
            [[campaign]]
            name = "Winter"
            quantity_sql = "SELECT 1"
        "#;
        let said = gone(&toml::from_str(file).unwrap());
        assert_eq!(
            said,
            [
                "campaign \"Winter\": `quantity_sql` is gone: write each = \"SELECT id, name, \
                quantity FROM …\"",
            ]
        );
    }

    #[test]
    fn unknown_word_is_refused_with_those_that_are_known() {
        let text = "database = 'x'\n[[campaign]]\nname = 'Winter'\nwords = 'SELECT 1'";
        let said = AttachFile::parse(text).unwrap_err().to_string();
        let expected = "unknown field `words`, expected one of `name`, `each`, ";
        assert!(said.contains(expected), "{said}");
    }
}
