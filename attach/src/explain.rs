//! Explains differences: each becomes a finding with its sentence and, where a person can end it,
//! the command. A sentence has no name of a user, since it reaches mails; a command has, and is
//! shown to operators only. Each command changes nothing if what it rests on has changed meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use firstcome_shared::hash::hash64;
use firstcome_shared::report::wording::{count, person};
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, DropReport, Examined, Finding, Judged, Kind, Kinds, Numbers,
    Outcome,
};

use crate::file::{CountKey, Counts, KeyKind, Mode, UsersKey, fill};
use crate::forms;
use crate::judge::{Comparison, CounterNumbers, Difference};
use crate::look::{CheckRow, FailedEvent, NAMED, PromisedUser, Target};
use crate::memory::Memory;
use crate::sql::ColumnType;
use crate::users::{Hasher, UserHash, has};

/// A finding, and what belongs to it.
#[derive(Debug)]
pub struct Found {
    pub finding: Finding,
    /// The repair that would end it.
    pub lost: Option<PromisedUser>,
    /// What only operators see.
    pub shown: Option<String>,
}

impl From<Finding> for Found {
    fn from(finding: Finding) -> Self {
        Self {
            finding,
            lost: None,
            shown: None,
        }
    }
}

impl Found {
    /// Adds why its repair was not made.
    pub fn add(&mut self, why: &str) {
        let detail = &mut self.finding.detail;
        *detail = format!("{detail}; {why}");
    }
}

/// The campaign cannot be compared, or a part of it.
pub fn stalled(cause: Cause, why: impl Into<String>) -> Finding {
    Finding {
        cause,
        ..Finding::report(Kind::Stalled, why)
    }
}

/// The look with what its explanations need.
struct Explainer<'l> {
    compared: &'l Comparison<'l>,
    /// Promised users whom findings name, with their events.
    users: HashMap<UserHash, PromisedUser>,
    events: HashMap<UserHash, &'l FailedEvent>,
    hasher: &'l Hasher,
}

/// Explains the differences that are old enough. Of a kind, at most 10,000 are named, and the
/// others are counted.
pub fn explain(compared: &Comparison<'_>, memory: &Memory, hasher: &Hasher) -> Vec<Found> {
    let Comparison { target, look, .. } = compared;
    let mut unlisted: BTreeMap<Kind, u64> = BTreeMap::new();
    let mut listed = Vec::new();
    let mut users = HashSet::new();
    for cohort in memory.open.iter().filter(|it| it.is_ripe) {
        for difference in &cohort.differences {
            let number = unlisted.entry(difference.kind()).or_default();
            *number += 1;
            if *number > NAMED {
                continue;
            }
            if let Difference::Unissued(user) | Difference::DuplicateRow(user) = difference {
                users.insert(*user);
            }
            listed.push((*difference, cohort.is_new));
        }
    }
    let mut users = look.promised.named(target, hasher, &users);
    for event in &look.events {
        let user = event.user.as_ref().map(|name| hasher.user(name));
        if let Some(user) = user.and_then(|user| users.get_mut(&user)) {
            user.event = Some(event.id.clone());
        }
    }
    let events = look.events.iter();
    let explainer = Explainer {
        compared,
        users,
        events: events.map(|it| (hasher.user(&it.id), it)).collect(),
        hasher,
    };
    let mut found = Vec::new();
    for (difference, is_new) in listed {
        if let Some(next) = explainer.found(difference, is_new) {
            found.push(next);
            *unlisted.entry(difference.kind()).or_default() -= 1;
        }
    }
    for (kind, more) in unlisted {
        if more > 0 {
            let mut others = Finding::report(kind, format!("{more} more, which are not listed"));
            others.cause = Cause::MoreLeft(more);
            found.push(others.into());
        }
    }
    found
}

impl Explainer<'_> {
    /// Returns the finding of a difference; `None` if a name is missing.
    fn found(&self, difference: Difference, is_new: bool) -> Option<Found> {
        let compared = self.compared;
        let Comparison { target, look, .. } = compared;
        let quantity = target.quantity.unwrap_or(u64::MAX);
        let mut found = Found::from(Finding::report(difference.kind(), ""));
        found.finding.detail = match difference {
            Difference::Unissued(user) => self.unissued(self.users.get(&user)?, is_new, &mut found),
            Difference::MissingAdmission(user) => {
                self.stranger(look.rows.strangers.get(&user)?, &mut found)
            }
            Difference::DuplicateRow(user) => {
                let promised = self.users.get(&user).map(|user| &user.name);
                let name = promised.or_else(|| look.rows.strangers.get(&user))?;
                found.finding.user_id = Some(name.clone());
                "the user has two rows that count: delete one; a unique key (ALTER TABLE … ADD \
                UNIQUE) would refuse it"
                    .to_owned()
            }
            Difference::FailedClaim(event) => self.event(self.events.get(&event)?, &mut found),
            Difference::OverPromised => {
                let more = compared.owed.saturating_sub(quantity);
                format!(
                    "{} owed, and the quantity is {quantity}: {more} too many. Nobody is named or \
                    repaired, since promised may hold everybody who asked",
                    count(compared.owed, "coupon is", "coupons are")
                )
            }
            Difference::OverIssued => {
                let coupons = look.rows.coupons;
                format!("rows count {coupons} coupons, and the quantity is {quantity}")
            }
            Difference::CountMismatch(_) => {
                let numbers = compared.numbers.as_ref()?;
                count_mismatch(target, target.block.count.as_ref()?, numbers)
            }
            Difference::Check(identity) => {
                let mut rows = look.check_rows.iter();
                let row = rows.find(|row| row.identity == identity)?;
                check_row(target, row, &mut found)
            }
            Difference::Apart => self.apart(),
            Difference::KeyGone => {
                let coupons = look.rows.coupons;
                let key = target.block.keys().first();
                let name = key.map(|key| format!("key {:?}", fill(&key.name, &target.id)));
                format!(
                    "{} holds nobody, and rows count {coupons} coupons: it has expired, or has \
                    another name (or form). Leave the campaign out of each once it is over",
                    name.as_deref().unwrap_or("promised")
                )
            }
        };
        if found.finding.kind == Kind::Stalled {
            found.finding.cause = Cause::NotCompared;
        }
        Some(found)
    }

    /// A promised user without a row. If no row can be written, only a person can help.
    fn unissued(&self, user: &PromisedUser, is_new: bool, found: &mut Found) -> String {
        let finding = &mut found.finding;
        finding.user_id = Some(user.name.clone());
        let is_integer = self.compared.look.rows.user_type == ColumnType::Integer;
        if is_integer && forms::number(&user.name).is_none() {
            let said = "promised, and no whole number, as the column of issued is: your database \
                might read it as another user, so no row is written";
            return said.to_owned();
        }
        let block = self.compared.target.block;
        if block.mode == Mode::Repair {
            finding.needs_person = false;
            finding.action = ActionKind::Issue;
            finding.result = Outcome::Planned;
        }
        if !block.issue.is_empty() {
            let user = user.clone();
            found.lost = Some(PromisedUser { is_new, ..user });
        }
        let Some(event) = &user.event else {
            return "promised, and no row came".to_owned();
        };
        finding.kind = Kind::FailedClaim;
        finding.dead_letter = event.parse().ok();
        "a failed event of a promised user, and no row came".to_owned()
    }

    /// A row that counts, of a user without a promise.
    fn stranger(&self, name: &str, found: &mut Found) -> String {
        found.finding.user_id = Some(name.to_owned());
        let said = "the user has a row that counts, and no promise";
        let Comparison { target, look, .. } = self.compared;
        let Some(key) = target.block.keys().first() else {
            return said.to_owned();
        };
        found.shown = add_user(key, target, look.promised.example(), name);
        let general = add_user(key, target, None, "USER").unwrap_or_default();
        format!(
            "{said}, and could claim again. If nothing was given back, this changes nothing twice: \
            {general}"
        )
    }

    /// An open event that no repair closes: its user has a row, or is promised nothing.
    fn event(&self, event: &FailedEvent, found: &mut Found) -> String {
        found.finding.user_id.clone_from(&event.user);
        found.finding.dead_letter = event.id.parse().ok();
        let user = event.user.as_ref().map(|user| self.hasher.user(user));
        let has_row = user.is_some_and(|user| self.compared.look.rows.has(user));
        let said = if has_row {
            "a failed event whose user has a row: look at it, and close it"
        } else {
            "a failed event whose user is promised nothing"
        };
        said.to_owned()
    }

    /// Shows three names of each side by their shapes.
    fn apart(&self) -> String {
        let compared = self.compared;
        let Comparison { target, look, .. } = compared;
        let rows = &look.rows;
        let lacking = look.promised.users.iter().filter(|user| !rows.has(**user));
        let some: HashSet<UserHash> = lacking.take(3).copied().collect();
        let named = look.promised.named(target, self.hasher, &some);
        let promised: Vec<String> = named.values().map(|user| shape(&user.name)).collect();
        let strangers = rows.strangers.values().take(3);
        let issued: Vec<String> = strangers.map(|name| shape(name)).collect();
        format!(
            "the names do not meet: {} in both stores, {} only promised (such as {}), {} only with \
            a row (such as {}): do promised and issued mean the same campaign, and the same form?",
            compared.in_both,
            compared.lacking,
            promised.join(", "),
            compared.strangers,
            issued.join(", ")
        )
    }
}

fn check_row(target: &Target<'_>, row: &CheckRow, found: &mut Found) -> String {
    let number = row.check;
    let identity = hash64(format!("{number}\n{:?}", row.first));
    found.finding.dead_letter = Some(identity.cast_signed());
    found.shown = Some(format!("{}: check {number}: {}", target.name, row.text));
    let what = match &row.first {
        Some(first) => format!("a row with {}", person(first)),
        None => "more than 100 rows".to_owned(),
    };
    match &target.block.whole {
        Some(whole) => format!("{what}: {}", whole.to_do),
        None => format!("check {number} returns {what}"),
    }
}

/// Describes a counter that differs, with the command that compares before it adds.
fn count_mismatch(target: &Target<'_>, count: &CountKey, numbers: &CounterNumbers) -> String {
    let CounterNumbers { given, owed, .. } = numbers;
    let wanted = i64::try_from(match count.counts {
        Counts::Down => target.quantity.unwrap_or_default().saturating_sub(*owed),
        Counts::Up => *owed,
    })
    .unwrap_or(i64::MAX);
    let key = quoted(&count.form.key(&fill(&count.key, &target.id)));
    let field = count
        .field
        .as_ref()
        .map(|field| quoted(&count.form.field(&fill(field, &target.id))));
    let [get, add, place, argument] = match &field {
        None => ["GET", "INCRBY", "KEYS[1]", ""],
        Some(field) => ["HGET", "HINCRBY", "KEYS[1],ARGV[3]", field],
    };
    let more = wanted.saturating_sub(numbers.counter.unwrap_or_default());
    let [seen, said] = match numbers.counter {
        None => [quoted(b""), "missing".to_owned()],
        Some(seen) => [
            seen.to_string(),
            format!("{seen}, so {given} were given out"),
        ],
    };
    format!(
        "the counter is {said}, and {owed} are owed. This adds only if nothing changed: EVAL \"if \
        (redis.call('{get}',{place}) or '')==ARGV[1] then return \
        redis.call('{add}',{place},ARGV[2]) end\" 1 {key} {seen} {more} {argument}"
    )
}

/// Returns the command that adds a user, written as this example is; `None` if programs may write
/// it in several ways.
fn add_user(
    key: &UsersKey,
    target: &Target<'_>,
    example: Option<&[u8]>,
    user: &str,
) -> Option<String> {
    let name = quoted(&key.name_in(&target.id, user));
    let member = match example {
        Some(example) if key.kind != KeyKind::Keys => quoted(&key.members.like(example, user)?),
        Some(_) | None => quoted(user.as_bytes()),
    };
    Some(match key.kind {
        KeyKind::Set => format!("SADD {name} {member}"),
        KeyKind::SortedSet => format!("ZADD {name} NX SCORE {member}"),
        KeyKind::Hash => format!("HSETNX {name} {member} VALUE"),
        KeyKind::Keys => format!("SET {name} VALUE NX"),
    })
}

/// Shows how a name is written, without its letters and digits.
fn shape(name: &str) -> String {
    let letters = name.chars().take(40).map(|letter| match letter {
        '0'..='9' => '9',
        'a'..='z' => 'a',
        'A'..='Z' => 'A',
        letter if letter.is_ascii_punctuation() => letter,
        _ => '?',
    });
    letters.collect()
}

/// Writes bytes as redis-cli reads them.
fn quoted(bytes: &[u8]) -> String {
    let mut all = bytes.iter();
    let is_plain = all.all(|byte| byte.is_ascii_alphanumeric() || b"_-.:@{}/+|=,".contains(byte));
    if !bytes.is_empty() && is_plain {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => text = format!("{text}\\x{byte:02x}"),
        }
    }
    text.push('"');
    text
}

/// The kinds under which a lost claim is found.
const LOST: [AlertKind; 3] = [
    AlertKind::Left(Kind::Unissued),
    AlertKind::Left(Kind::FailedClaim),
    AlertKind::Braked,
];

/// Returns the kinds that the look would have found. A difference that is too young to be named
/// may be one that an earlier process has named.
fn judged(compared: &Comparison<'_>, memory: &Memory) -> Judged {
    let stalled = AlertKind::Left(Kind::Stalled);
    let check = AlertKind::Left(Kind::Check);
    if memory.queue.stalled(compared.look.ended).is_some() {
        return Judged::of(Kinds::only([stalled, AlertKind::TheirsQueue]));
    }
    let found = &compared.differences;
    if found.iter().any(|it| it.kind() == Kind::Stalled) {
        return Judged::of(Kinds::only([stalled, check]));
    }
    let young = memory
        .young()
        .flat_map(|it| it.differences.iter().map(|it| AlertKind::Left(it.kind())));
    let mut open: BTreeSet<AlertKind> = young.collect();
    if has(found, Difference::OverPromised) || LOST.iter().any(|kind| open.contains(kind)) {
        open.extend(LOST);
    }
    if !compared.look.unchecked.is_empty() {
        open.insert(check);
    }
    Judged::of(Kinds::all_but(open))
}

/// The report of a look.
pub fn report(compared: &Comparison<'_>, memory: &Memory, found: &[Found]) -> DropReport {
    let Comparison { target, look, .. } = compared;
    let findings = found.iter().map(|it| &it.finding);
    let applied = findings.filter(|it| it.result == Outcome::Applied);
    let written = applied.clone().count() as u64;
    let closed = applied.filter(|it| it.kind == Kind::FailedClaim).count() as u64;
    let promised = look.promised.users.len() as u64;
    let before = Numbers {
        count: look.count.unwrap_or_default(),
        users: promised,
        rows: look.rows.number,
        failed_claims: look.events.len() as u64,
        in_flight: memory.young().map(|it| it.differences.len() as u64).sum(),
        ..Numbers::default()
    };
    let is_nothing = promised == 0 && look.rows.number == 0;
    let is_whole = written == found.len() as u64 && before.in_flight == 0;
    let quantity = target.quantity.unwrap_or(u64::from(u32::MAX));
    DropReport {
        exact: is_whole && !is_nothing && look.rows.coupons <= quantity,
        judged: judged(compared, memory),
        before,
        after: Numbers {
            rows: before.rows + written,
            failed_claims: before.failed_claims - closed,
            ..before
        },
        examined: Examined {
            users: before.users,
            rows: before.rows,
            failed_claims: before.failed_claims,
        },
        ..blank(target)
    }
}

/// A report of a campaign that was not compared.
pub fn blank(target: &Target<'_>) -> DropReport {
    let quantity = target.quantity.and_then(|it| u32::try_from(it).ok());
    DropReport {
        coupon_name: target.name.clone(),
        ..DropReport::begun(
            target.block.coupon_id(),
            target.drop_id,
            quantity.unwrap_or(u32::MAX),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_redis_cli_reads_them() {
        for (bytes, expected) in [
            (&b"c:{7}:users"[..], "c:{7}:users"),
            (b"a b", "\"a b\""),
            (
                b"\xac\xed\0\x05t\0\x0242",
                "\"\\xac\\xed\\x00\\x05t\\x00\\x0242\"",
            ),
            (b"say \"hi\"", "\"say \\\"hi\\\"\""),
        ] {
            assert_eq!(quoted(bytes), expected);
        }
    }

    #[test]
    fn shape_shows_how_a_name_is_written_and_no_letter_of_it() {
        assert_eq!(shape("user:42"), "aaaa:99");
        assert_eq!(shape("3F2a-11"), "9A9a-99");
        assert_eq!(shape("김"), "?");
    }
}
