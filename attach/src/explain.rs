//! Explains differences: each becomes a finding with its sentence and, where a person can end it,
//! the command. A sentence has no name of a user, since it reaches mails; a command has, and is
//! shown to operators only. Each command changes nothing if what it rests on has changed meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use firstcome_shared::hash::hash64;
use firstcome_shared::report::wording::{count, person};
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, DropReport, Examined, Finding, Judged, Kind, Kinds,
    Numbers as Reported, Outcome,
};

use crate::error::{Answer, AttachError};
use crate::file::{CountKey, Counts, KeyKind, Mode, UsersKey, fill};
use crate::forms;
use crate::judge::{Comparison, Difference, Numbers};
use crate::look::{CheckRow, Event, Look, NAMED, PromisedUser, Target};
use crate::memory::Memory;
use crate::repair::{LostUser, Repaired};
use crate::sql::ColumnType;
use crate::users::{Hasher, UserHash};

/// A look, compared.
pub struct Looked<'t> {
    pub target: &'t Target<'t>,
    pub look: Look,
    pub compared: Comparison,
    /// The numbers are those of the look before.
    pub is_at_rest: bool,
}

/// A finding, and what belongs to it.
#[derive(Debug)]
pub struct Found {
    pub finding: Finding,
    /// The repair that would end it.
    pub lost: Option<LostUser>,
    /// What only operators see.
    pub shown: Option<String>,
}

impl Found {
    fn report(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            finding: Finding::report(kind, detail),
            lost: None,
            shown: None,
        }
    }

    /// The campaign cannot be compared, or a part of it.
    pub fn stalled(cause: Cause, why: impl Into<String>) -> Self {
        let mut found = Self::report(Kind::Stalled, why);
        found.finding.cause = cause;
        found
    }

    pub fn failed(error: &AttachError) -> Self {
        let cause = match error {
            AttachError::Away { store, .. } => Cause::Away(*store),
            AttachError::Refused { .. }
            | AttachError::Misfit(_)
            | AttachError::Ours(_)
            | AttachError::Stopped => Cause::NotCompared,
        };
        Self::stalled(cause, error.to_string())
    }

    fn of_user(mut self, user: &str) -> Self {
        self.finding.user_id = Some(user.to_owned());
        self
    }

    /// Plans the repair that would end it.
    fn repaired_by(mut self, lost: LostUser) -> Self {
        self.lost = Some(lost);
        self.finding.needs_person = false;
        self.finding.action = ActionKind::Issue;
        self.finding.result = Outcome::Planned;
        self
    }

    pub fn user(&self) -> &str {
        self.finding.user_id.as_deref().unwrap_or_default()
    }

    /// Adds why its repair was not made.
    pub fn add(&mut self, why: &str) {
        let detail = &mut self.finding.detail;
        *detail = format!("{detail}; {why}");
    }

    pub fn ended(&mut self, repaired: &Answer<Repaired>) {
        self.finding.result = match repaired {
            Ok(Repaired::Written) => Outcome::Applied,
            Ok(Repaired::Skipped(_) | Repaired::Unknown) => Outcome::Skipped,
            Err(_) => Outcome::Failed,
        };
        match repaired {
            Ok(Repaired::Written) => {}
            Ok(Repaired::Skipped(why)) => self.add(why),
            Ok(Repaired::Unknown) => self.add("the answer to COMMIT was lost: the next look tells"),
            Err(error) => self.add(&error.to_string()),
        }
    }
}

/// The look with what its explanations need.
struct Explainer<'l> {
    looked: &'l Looked<'l>,
    memory: &'l Memory,
    /// Promised users whom findings name.
    users: HashMap<UserHash, PromisedUser>,
    events: HashMap<UserHash, &'l Event>,
    events_by_user: HashMap<UserHash, &'l Event>,
    hasher: &'l Hasher,
}

/// Explains the differences that are old enough. Of a kind, at most 10,000 are named, and the
/// others are counted.
pub fn explain(looked: &Looked<'_>, memory: &Memory, hasher: &Hasher) -> Vec<Found> {
    let Looked {
        target,
        look,
        compared,
        ..
    } = looked;
    let is_ripe = |difference| memory.is_ripe(difference, look.began);
    let is_named =
        |user| is_ripe(Difference::Unissued(user)) || is_ripe(Difference::DuplicateRow(user));
    let ripe = compared.differences.iter().filter(|it| is_ripe(**it));
    let promised = look
        .promised
        .as_ref()
        .filter(|_| ripe.clone().next().is_some());
    let users = promised.map(|promised| promised.named(target, hasher, is_named));
    let events = look.events.iter();
    let explainer = Explainer {
        looked,
        memory,
        users: users.unwrap_or_default(),
        events: events.clone().map(|it| (hasher.user(&it.id), it)).collect(),
        events_by_user: events
            .filter_map(|it| Some((hasher.user(it.user.as_ref()?), it)))
            .collect(),
        hasher,
    };
    let mut numbers: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for difference in ripe {
        let Some(next) = explainer.found(*difference) else {
            continue;
        };
        let number = numbers.entry(next.finding.kind).or_default();
        *number += 1;
        if *number <= NAMED {
            found.push(next);
        }
    }
    for (kind, number) in numbers {
        if number > NAMED {
            let more = (number - NAMED) as u64;
            let mut others = Found::report(kind, format!("{more} more, which are not listed"));
            others.finding.cause = Cause::MoreLeft(more);
            found.push(others);
        }
    }
    found
}

impl Explainer<'_> {
    /// Returns the finding of a difference; `None` if another one says it.
    fn found(&self, difference: Difference) -> Option<Found> {
        let Looked {
            target,
            look,
            compared,
            ..
        } = self.looked;
        let quantity = target.quantity.unwrap_or(u64::MAX);
        Some(match difference {
            Difference::Unissued(_) if compared.is_over_promised => return None,
            Difference::Unissued(user) => self.unissued(user)?,
            Difference::MissingAdmission(user) => self.stranger(look.rows.strangers.get(&user)?),
            Difference::DuplicateRow(user) => {
                let promised = self.users.get(&user).map(|user| &user.name);
                let name = promised.or_else(|| look.rows.strangers.get(&user))?;
                Found::report(
                    Kind::DuplicateRow,
                    "the user has two rows that count: delete one; a unique key (ALTER TABLE … ADD \
                    UNIQUE) would refuse it",
                )
                .of_user(name)
            }
            Difference::FailedClaim(event) => self.event(self.events.get(&event)?)?,
            Difference::OverPromised => {
                let owed = count(compared.owed, "coupon is", "coupons are");
                let said = format!(
                    "{owed} owed, and the quantity is {quantity}. Nobody is named or repaired, \
                    since promised may hold everybody who asked"
                );
                Found::report(Kind::OverAdmitted, said)
            }
            Difference::OverIssued => {
                let coupons = look.rows.coupons;
                let said = format!("rows count {coupons} coupons, and the quantity is {quantity}");
                Found::report(Kind::OverIssued, said)
            }
            Difference::CountMismatch(numbers) => {
                let said = count_mismatch(target, target.block.count.as_ref()?, &numbers);
                Found::report(Kind::CountMismatch, said)
            }
            Difference::Check(identity) => {
                let mut rows = look.check_rows.iter();
                self.check_row(rows.find(|row| row.identity == identity)?)
            }
            Difference::Apart => self.apart(),
        })
    }

    /// A promised user without a row. If no row can be written, only a person can help.
    fn unissued(&self, hash: UserHash) -> Option<Found> {
        let user = self.users.get(&hash)?;
        let is_integer = self.looked.look.rows.user_type == ColumnType::Integer;
        if is_integer && !forms::is_whole(&user.name) {
            let said = "promised, and no whole number, as the column of issued is: your database \
                might read it as another user, so no row is written";
            return Some(Found::report(Kind::Unissued, said).of_user(&user.name));
        }
        let event = self.events_by_user.get(&hash);
        let kind = event.map_or(Kind::Unissued, |_| Kind::FailedClaim);
        let mut found = Found::report(kind, "promised, and no row came").of_user(&user.name);
        found.finding.dead_letter = event.and_then(|event| event.id.parse().ok());
        if self.looked.target.block.mode == Mode::Observe {
            return Some(found);
        }
        Some(found.repaired_by(LostUser {
            user: user.clone(),
            event: event.map(|event| event.id.clone()),
            is_new: self.memory.is_new(Difference::Unissued(hash)),
        }))
    }

    /// A row that counts, of a user without a promise.
    fn stranger(&self, name: &str) -> Found {
        let mut said = "the user has a row that counts, and no promise".to_owned();
        let Looked { target, look, .. } = self.looked;
        let key = target.block.promised.keys().first();
        let example = look.promised.as_ref().and_then(|it| it.example());
        let command = |example, user| add_user(key?, target, example, user);
        if let Some(general) = command(None, "USER") {
            said = format!(
                "{said}, and could claim again. If nothing was given back, this changes nothing \
                twice: {general}"
            );
        }
        let mut found = Found::report(Kind::MissingAdmission, said).of_user(name);
        found.shown = command(example, name);
        found
    }

    /// An open event that no repair closes: its user has a row, or is promised nothing.
    fn event(&self, event: &Event) -> Option<Found> {
        let Looked { look, compared, .. } = self.looked;
        let user = event.user.as_ref().map(|user| self.hasher.user(user));
        let promised = look.promised.as_ref();
        let is_promised = user.is_some_and(|user| promised.is_some_and(|it| it.has(user)));
        let said = if user.is_some_and(|user| look.rows.has(user)) {
            "a failed event whose user has a row: look at it, and close it"
        } else if is_promised && !compared.is_over_promised {
            // The finding of the user names it.
            return None;
        } else {
            "a failed event whose user is promised nothing"
        };
        let mut found = Found::report(Kind::FailedClaim, said);
        found.finding.user_id.clone_from(&event.user);
        found.finding.dead_letter = event.id.parse().ok();
        Some(found)
    }

    fn check_row(&self, row: &CheckRow) -> Found {
        let number = row.check;
        let target = self.looked.target;
        let what = match &row.first {
            Some(first) => format!("a row with {}", person(first)),
            None => "more than 100 rows".to_owned(),
        };
        let said = match &target.block.whole {
            Some(whole) => format!("{what}: {}", whole.to_do),
            None => format!("check {number} returns {what}"),
        };
        let mut found = Found::report(Kind::Check, said);
        let identity = hash64(format!("{number}\n{:?}", row.first));
        found.finding.dead_letter = Some(identity.cast_signed());
        found.shown = Some(format!("{}: check {number}: {}", target.name, row.text));
        found
    }

    /// Names that do not meet. Operators see three of each side.
    fn apart(&self) -> Found {
        let Looked {
            target,
            look,
            compared,
            ..
        } = self.looked;
        let Comparison {
            in_both,
            lacking,
            strangers,
            ..
        } = compared;
        let why = format!(
            "the names do not meet: {in_both} in both stores, {lacking} only promised, {strangers} \
            only with a row (--full-ids shows three of each): do promised and issued mean the same \
            campaign, and the same form? A key that holds nobody has expired, or has another name \
            (or form): leave a campaign out of each once it is over"
        );
        let mut names = Vec::new();
        if let Some(promised) = &look.promised {
            let lacking = promised.users.iter().filter(|user| !look.rows.has(**user));
            let some: Vec<UserHash> = lacking.take(3).copied().collect();
            let named = promised.named(target, self.hasher, |user| some.contains(&user));
            names.extend(named.into_values().map(|user| user.name));
        }
        let strangers: Vec<&String> = look.rows.strangers.values().take(3).collect();
        let mut found = Found::stalled(Cause::NotCompared, why);
        found.shown = Some(format!(
            "only promised: {names:?}; only with a row: {strangers:?}"
        ));
        found
    }
}

/// Describes a counter that differs, with the command that compares before it adds.
fn count_mismatch(target: &Target<'_>, count: &CountKey, numbers: &Numbers) -> String {
    let Numbers { given, owed, .. } = numbers;
    let wanted = i64::try_from(match (count.counts, target.quantity) {
        (Counts::Down, Some(quantity)) => quantity.saturating_sub(*owed),
        (Counts::Down, None) | (Counts::Up, _) => *owed,
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
    let seen = match numbers.counter {
        Some(counter) => counter.to_string(),
        None => "missing".to_owned(),
    };
    let more = wanted.saturating_sub(numbers.counter.unwrap_or_default());
    format!(
        "the counter is {seen}, so {given} were given out, and {owed} are owed. This adds only if \
        nothing changed: EVAL \"if (redis.call('{get}',{place}) or 'missing')==ARGV[1] then return \
        redis.call('{add}',{place},ARGV[2]) end\" 1 {key} {seen} {more} {argument}"
    )
}

/// Returns the command that adds a user to a set, written as this example is; `None` if programs may
/// write it in several ways, or with something that only they know.
fn add_user(
    key: &UsersKey,
    target: &Target<'_>,
    example: Option<&[u8]>,
    user: &str,
) -> Option<String> {
    let KeyKind::Set(_) = key.kind else {
        return None;
    };
    let name = quoted(&key.name_in(&target.id));
    let member = match example {
        Some(example) => key.members.like(example, user)?,
        None => user.as_bytes().to_vec(),
    };
    Some(format!("SADD {name} {}", quoted(&member)))
}

/// Writes bytes as redis-cli reads them.
fn quoted(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:@{}/+|=,".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
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

/// The kinds under which a difference is found.
fn kinds(difference: Difference) -> Vec<AlertKind> {
    let kind = match difference {
        Difference::Unissued(_) | Difference::FailedClaim(_) => {
            return LOST.to_vec();
        }
        Difference::MissingAdmission(_) => Kind::MissingAdmission,
        Difference::DuplicateRow(_) => Kind::DuplicateRow,
        Difference::OverPromised => Kind::OverAdmitted,
        Difference::OverIssued => Kind::OverIssued,
        Difference::CountMismatch(_) => Kind::CountMismatch,
        Difference::Check(_) => Kind::Check,
        Difference::Apart => Kind::Stalled,
    };
    vec![AlertKind::Left(kind)]
}

/// Returns the kinds that the look would have found: little, if not everything was compared. A
/// difference that is too young to be named may be one that an earlier process has named.
fn judged(looked: &Looked<'_>, memory: &Memory, found: &[Found]) -> Judged {
    let mut kinds_found = found.iter().map(|it| it.finding.kind);
    if looked.compared.is_apart || kinds_found.any(|kind| kind == Kind::Stalled) {
        let stalled = [AlertKind::Left(Kind::Stalled), AlertKind::TheirsQueue];
        return Judged::of(Kinds::only(stalled));
    }
    let young = memory.young(looked.look.began);
    let mut open: BTreeSet<AlertKind> = young.flat_map(kinds).collect();
    if looked.compared.is_over_promised {
        open.extend(LOST);
    }
    Judged::of(Kinds::all_but(open))
}

/// The report of a look.
pub fn report(looked: &Looked<'_>, memory: &Memory, found: &[Found]) -> DropReport {
    let Looked { target, look, .. } = looked;
    let findings = found.iter().map(|it| &it.finding);
    let applied = findings.filter(|it| it.result == Outcome::Applied);
    let written = applied.clone().count() as u64;
    let closed = applied.filter(|it| it.kind == Kind::FailedClaim).count() as u64;
    let promised = look.promised.as_ref().map_or(0, |it| it.users.len() as u64);
    let before = Reported {
        count: look.count.unwrap_or_default(),
        users: promised,
        rows: look.rows.number,
        failed_claims: look.events.len() as u64,
        in_flight: memory.young(look.began).count() as u64,
        ..Reported::default()
    };
    let is_nothing = promised == 0 && look.rows.number == 0;
    let is_whole = written == found.len() as u64 && before.in_flight == 0;
    let quantity = target.quantity.unwrap_or(u64::from(u32::MAX));
    DropReport {
        exact: is_whole && !is_nothing && look.rows.coupons <= quantity,
        judged: judged(looked, memory, found),
        before,
        after: Reported {
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
}
