//! What can be known to be wrong from the file alone. All of it is said at once.

use std::collections::BTreeSet;

use super::keys::ID;
use super::{AttachFile, Campaign, Failed, FileCheck, Mode, Promised, Stage};
use crate::text::{Parameter, Statement};

/// Returns everything that is wrong with a file, one sentence each.
pub(super) fn wrong(file: &AttachFile) -> Vec<String> {
    let mut wrong = Vec::new();
    if file.campaigns.is_empty() && file.checks.is_empty() {
        wrong.push("the file has neither a [[campaign]] nor a [[check]]".to_owned());
    }
    let mut names = BTreeSet::new();
    for campaign in &file.campaigns {
        let mut found = of_campaign(file, campaign);
        if !names.insert(&campaign.name) {
            found.push("another campaign has this name".to_owned());
        }
        let name = &campaign.name;
        wrong.extend(
            found
                .into_iter()
                .map(|why| format!("campaign {name:?}: {why}")),
        );
    }
    let mut names = BTreeSet::new();
    for check in &file.checks {
        let mut found = of_check(check);
        if !names.insert(&check.name) {
            found.push("another check has this name".to_owned());
        }
        let name = &check.name;
        wrong.extend(
            found
                .into_iter()
                .map(|why| format!("check {name:?}: {why}")),
        );
    }
    wrong
}

fn of_campaign(file: &AttachFile, campaign: &Campaign) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut say = |why: Option<String>| wrong.extend(why);
    if campaign.name.trim().is_empty() {
        say(Some("name is empty".to_owned()));
    }
    if campaign.each.is_some() == campaign.quantity.is_some() {
        say(Some("write each, or quantity".to_owned()));
    }
    let has_promised = !matches!(campaign.promised, Promised::NotDescribed);
    let is_compared = has_promised || campaign.count.is_some();
    if is_compared && campaign.issued.is_none() {
        say(Some(
            "issued is missing: the rows that answer promises".to_owned(),
        ));
    }
    if !is_compared && campaign.checks().is_empty() {
        say(Some(
            "write promised, count or check: nothing is compared".to_owned(),
        ));
    }
    if let Some(each) = &campaign.each {
        say(each.must_read("each").err());
        say(foreign("each", each, &[]));
    }
    for key in key_names(campaign) {
        say(without_id(campaign, &key.field, key.name.contains(ID)));
    }
    for (field, statement) in reads(campaign) {
        say(statement.must_read(&field).err());
        say(foreign(&field, statement, &[Parameter::Id]));
        if !field.starts_with("queue") {
            say(without_id(campaign, &field, statement.has(Parameter::Id)));
        }
    }
    if let Some(Failed::Topic(topic)) = &campaign.failed {
        let names_id = topic.only.values().any(|value| value.contains(":id"));
        say(without_id(campaign, "failed.where", names_id));
    }
    for (field, is_used) in [
        ("redis", needs_redis(campaign)),
        ("kafka", needs_kafka(campaign)),
    ] {
        let is_there = if field == "redis" {
            &file.redis
        } else {
            &file.kafka
        };
        if is_used && is_there.is_none() {
            say(Some(format!(
                "{field}: its address is missing at the top of the file"
            )));
        }
    }
    of_repairs(campaign, &mut wrong);
    wrong
}

fn of_repairs(campaign: &Campaign, wrong: &mut Vec<String>) {
    let mut say = |why: Option<String>| wrong.extend(why);
    for (number, statement) in campaign.issue.iter().enumerate() {
        let field = format!("issue {}", number + 1);
        say(statement.must_write(&field, false).err());
        say(foreign(
            &field,
            statement,
            &[Parameter::Id, Parameter::User],
        ));
        say(without_id(campaign, &field, statement.has(Parameter::Id)));
    }
    if !campaign.issue.is_empty() && campaign.issue.iter().all(|it| !it.has(Parameter::User)) {
        say(Some("issue: no statement names :user".to_owned()));
    }
    if let Some(resolve) = &campaign.resolve {
        say(resolve.must_write("resolve", true).err());
        if !resolve.has(Parameter::Failed) {
            say(Some("resolve: it must name :failed, the event".to_owned()));
        }
        if !matches!(campaign.failed, Some(Failed::Select(_))) {
            say(Some(
                "resolve: it needs failed, a SELECT of events".to_owned(),
            ));
        }
    }
    if campaign.mode == Mode::Observe {
        return;
    }
    if matches!(campaign.promised, Promised::NotDescribed) {
        say(Some("mode = \"repair\": promised is missing".to_owned()));
    }
    if campaign.issue.is_empty() {
        say(Some("mode = \"repair\": issue is missing".to_owned()));
    }
    if campaign.queue.is_none() {
        say(Some(
            "mode = \"repair\": queue: what stands between your answer and the row? [] if the API \
            writes it"
                .to_owned(),
        ));
    }
    if campaign.check.is_none() {
        say(Some(
            "mode = \"repair\": check: which of your numbers counts these rows, too? [] if none"
                .to_owned(),
        ));
    }
}

fn of_check(check: &FileCheck) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(check.sql.must_read("sql").err());
    wrong.extend(foreign("sql", &check.sql, &[]));
    if check.to_do.trim().is_empty() {
        wrong.push("to_do: say what to do about the rows".to_owned());
    }
    wrong.extend(always_returns_a_row(&check.sql));
    wrong
}

/// Refuses a check that selects a number instead of what is wrong.
fn always_returns_a_row(statement: &Statement) -> Option<String> {
    let text = statement.to_string().to_uppercase();
    let selects = text.trim_start().strip_prefix("SELECT")?.trim_start();
    let is_count = selects.starts_with("COUNT(") || selects.starts_with("COUNT (");
    let may_be_none = text.contains("GROUP BY") || text.contains("HAVING");
    (is_count && !may_be_none).then(|| {
        "it always returns a row (COUNT without HAVING): a check returns what is wrong".to_owned()
    })
}

/// Refuses a name that has no value in this field.
fn foreign(field: &str, statement: &Statement, known: &[Parameter]) -> Option<String> {
    let all = [Parameter::Id, Parameter::User, Parameter::Failed];
    let foreign = all
        .into_iter()
        .find(|parameter| statement.has(*parameter) && !known.contains(parameter))?;
    Some(format!("{field}: {} has no value there", foreign.name()))
}

/// Refuses what is the same for all campaigns of an `each`, and an id where there is none.
fn without_id(campaign: &Campaign, field: &str, has_id: bool) -> Option<String> {
    match (&campaign.each, has_id) {
        (Some(_), false) => Some(format!(
            "{field}: without the id, all campaigns of each would read or write the same"
        )),
        (None, true) => Some(format!("{field}: the id comes from each, which is missing")),
        (Some(_), true) | (None, false) => None,
    }
}

struct KeyName {
    field: String,
    name: String,
}

fn key_names(campaign: &Campaign) -> Vec<KeyName> {
    let mut names = Vec::new();
    if let Promised::Keys(keys) = &campaign.promised {
        names.extend(keys.iter().map(|key| KeyName {
            field: format!("promised.{}", key.kind.word()),
            name: key.name.clone(),
        }));
    }
    if let Some(count) = &campaign.count {
        let field = count.field.as_deref().unwrap_or_default();
        names.push(KeyName {
            field: "count.key".to_owned(),
            name: format!("{}{field}", count.key),
        });
    }
    names
}

impl Campaign {
    /// Returns all statements but `each`, by the names of their fields.
    pub fn statements(&self) -> Vec<(String, &Statement)> {
        let mut all = reads(self);
        let issue = self.issue.iter().enumerate();
        all.extend(issue.map(|(at, statement)| (format!("issue {}", at + 1), statement)));
        all.extend(
            self.resolve
                .iter()
                .map(|statement| ("resolve".to_owned(), statement)),
        );
        all
    }
}

/// Returns the statements that read, by the names of their fields.
fn reads(campaign: &Campaign) -> Vec<(String, &Statement)> {
    let mut reads = Vec::new();
    let mut add = |field: &str, statement| reads.push((field.to_owned(), statement));
    if let Promised::Select(statement) = &campaign.promised {
        add("promised", statement);
    }
    if let Some(statement) = &campaign.issued {
        add("issued", statement);
    }
    if let Some(Failed::Select(statement)) = &campaign.failed {
        add("failed", statement);
    }
    for (number, statement) in campaign.checks().iter().enumerate() {
        add(&format!("check {}", number + 1), statement);
    }
    for stage in campaign.stages() {
        if let Stage::Sql(statement) = stage {
            add("queue.sql", statement);
        }
    }
    reads
}

fn needs_redis(campaign: &Campaign) -> bool {
    let stages = campaign.stages().iter();
    let mut in_redis = stages.map(|stage| match stage {
        Stage::List(_) | Stage::SortedSet(_) | Stage::Stream { .. } => true,
        Stage::Topic { .. } | Stage::Sql(_) => false,
    });
    campaign.count.is_some()
        || matches!(campaign.promised, Promised::Keys(_))
        || in_redis.any(|is_in_redis| is_in_redis)
}

fn needs_kafka(campaign: &Campaign) -> bool {
    let mut stages = campaign.stages().iter();
    matches!(campaign.failed, Some(Failed::Topic(_)))
        || stages.any(|stage| matches!(stage, Stage::Topic { .. }))
}
