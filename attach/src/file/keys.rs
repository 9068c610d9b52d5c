//! Places in their Redis and Kafka: keys of users, the counter, and the stages of the queue.

use std::fmt;

use serde::Deserialize;

use crate::forms::{Form, Members};
use crate::text::Statement;

const ID: &str = "{id}";
const USER: &str = "{user}";

/// Writes the campaign's id into the name of a key.
pub fn fill(name: &str, id: &str) -> String {
    name.replace(ID, id)
}

pub(super) fn has_id(name: &str) -> bool {
    name.contains(ID)
}

/// A key, or a family of keys, that holds users.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "UsersWords")]
pub struct UsersKey {
    pub kind: KeyKind,
    /// With `{id}`, and of one key for each user with `{user}`.
    pub name: String,
    /// How the key's name is written.
    pub key_form: Form,
    pub members: Members,
    /// The values of a hash that mean that the coupon is the user's; none: any.
    values: Vec<String>,
    /// Members that are not users, such as a placeholder that keeps the key alive.
    pub except: Vec<String>,
}

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Set,
    SortedSet,
    Hash,
    /// One key for each user.
    Keys,
}

impl UsersKey {
    /// Returns the key's name as Redis has it; of one key a user, that of this user.
    pub fn name_in(&self, id: &str, user: &str) -> Vec<u8> {
        self.key_form.key(&fill(&self.name, id).replace(USER, user))
    }

    /// Returns the user of a member, or of the name of a key; `None` if it has another form.
    pub fn user(&self, id: &str, written: &[u8]) -> Option<String> {
        if self.kind != KeyKind::Keys {
            return self.members.decode(written);
        }
        let name = fill(&self.name, id);
        let (before, after) = name.split_once(USER)?;
        let name = self.key_form.decode(written)?;
        Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned())
    }

    /// Whether a value of a hash means that the coupon is the user's.
    pub fn means_promised(&self, value: &[u8]) -> bool {
        self.values.is_empty() || self.values.iter().any(|it| it.as_bytes() == value)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersWords {
    set: Option<String>,
    sorted_set: Option<String>,
    hash: Option<String>,
    keys: Option<String>,
    value: Option<ValueWords>,
    #[serde(default)]
    form: Form,
    key_form: Option<Form>,
    member: Option<String>,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ValueWords {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<UsersWords> for UsersKey {
    type Error = String;

    fn try_from(words: UsersWords) -> Result<Self, String> {
        let kinds = [
            (KeyKind::Set, words.set),
            (KeyKind::SortedSet, words.sorted_set),
            (KeyKind::Hash, words.hash),
            (KeyKind::Keys, words.keys),
        ];
        let mut written = kinds
            .into_iter()
            .filter_map(|(kind, name)| Some((kind, name?)));
        let (kind, name) = written
            .next()
            .filter(|_| written.next().is_none())
            .ok_or("promised: write one of set, sorted_set, hash, keys")?;
        let refusal = match (kind, &words.value) {
            (KeyKind::Hash, Some(_)) => "",
            (KeyKind::Hash, None) => {
                "promised.hash: which values mean that the coupon is theirs? value = \"1\", a \
                list, or \"*\""
            }
            (_, Some(_)) => "promised: value belongs to a hash",
            (KeyKind::Keys, None) if name.matches(USER).count() != 1 => {
                "promised.keys: write {user} once, as in \"coupon:{id}:{user}\""
            }
            (KeyKind::Set | KeyKind::SortedSet | KeyKind::Keys, None) => "",
        };
        if !refusal.is_empty() {
            return Err(refusal.to_owned());
        }
        let mut values = match words.value {
            None => Vec::new(),
            Some(ValueWords::One(value)) => vec![value],
            Some(ValueWords::Several(values)) => values,
        };
        if values == ["*"] {
            values.clear();
        }
        Ok(Self {
            kind,
            name,
            key_form: words.key_form.unwrap_or(words.form),
            members: Members::new(words.form, words.member.as_deref())?,
            values,
            except: words.except,
        })
    }
}

/// A counter of coupons.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountKey {
    pub key: String,
    /// The field that holds the counter, if the key is a hash.
    pub field: Option<String>,
    pub counts: Counts,
    /// How the names of key and field are written.
    #[serde(default)]
    pub form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counts {
    /// Coupons that were given out.
    Up,
    /// Coupons that are left.
    Down,
}

/// A stage: what stands between their answer and the row.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "queue: a stage is { kafka = …, group = … }, { list = … }, { sorted_set = … }, \
                 { stream = …, group = … } or { sql = … }"
)]
pub enum Stage {
    Topic {
        kafka: String,
        group: String,
    },
    Stream {
        stream: String,
        group: String,
    },
    List {
        list: String,
    },
    SortedSet {
        sorted_set: String,
    },
    /// Selects how many claims wait, such as in an outbox.
    Sql {
        sql: Statement,
    },
}

impl Stage {
    /// Whether it is a key without positions.
    pub fn must_be_empty(&self) -> bool {
        matches!(self, Self::List { .. } | Self::SortedSet { .. })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { kafka, group } => write!(f, "topic {kafka:?} of group {group:?}"),
            Self::Stream { stream, group } => write!(f, "stream {stream:?} of group {group:?}"),
            Self::List { list } => write!(f, "list {list:?}"),
            Self::SortedSet { sorted_set } => write!(f, "sorted set {sorted_set:?}"),
            Self::Sql { .. } => f.write_str("the SELECT"),
        }
    }
}
