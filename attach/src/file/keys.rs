//! Keys of their Redis: who was promised a coupon, and the counter.

use serde::Deserialize;

use crate::forms::{Form, Members};

/// A key, or a family of keys, that holds users.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "UsersWords")]
pub struct UsersKey {
    pub kind: KeyKind,
    /// With `{id}`; in [`KeyKind::Keys`] also with `{user}`.
    pub name: String,
    /// How the key's name is written.
    pub key_form: Form,
    pub members: Members,
    /// Members that are not users, such as a placeholder that keeps the key alive.
    pub except: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    Set,
    SortedSet,
    Hash(HashValues),
    /// One key for each user.
    Keys,
}

/// The values of a hash that mean that the coupon is the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashValues {
    Any,
    These(Vec<String>),
}

impl HashValues {
    pub fn mean_promised(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::These(values) => values.iter().any(|it| it.as_bytes() == value),
        }
    }
}

impl KeyKind {
    /// Returns the type's name in TYPE.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash(_) => "hash",
            Self::Keys => "key",
        }
    }
}

impl UsersKey {
    /// Returns the key's name as Redis has it.
    pub fn name_in(&self, id: &str) -> Vec<u8> {
        self.key_form.key(&fill(&self.name, id))
    }

    /// Returns what stands before and after the user in the names of [`KeyKind::Keys`].
    pub fn around_user(&self, id: &str) -> (String, String) {
        let name = fill(&self.name, id);
        let (before, after) = name.split_once(USER).unwrap_or((&name, ""));
        (before.to_owned(), after.to_owned())
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

pub(super) const ID: &str = "{id}";
pub(super) const USER: &str = "{user}";

/// Writes the campaign's id into the name of a key.
pub fn fill(name: &str, id: &str) -> String {
    name.replace(ID, id)
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
        let values = match words.value {
            None => None,
            Some(ValueWords::One(any)) if any == "*" => Some(HashValues::Any),
            Some(ValueWords::One(value)) => Some(HashValues::These(vec![value])),
            Some(ValueWords::Several(values)) => Some(HashValues::These(values)),
        };
        if values.is_some() && words.hash.is_none() {
            return Err("promised: value belongs to a hash".to_owned());
        }
        let (kind, name) = match (words.set, words.sorted_set, words.hash, words.keys) {
            (Some(name), None, None, None) => (KeyKind::Set, name),
            (None, Some(name), None, None) => (KeyKind::SortedSet, name),
            (None, None, Some(name), None) => {
                let values = values.ok_or(
                    "promised.hash: which values mean that the coupon is theirs? value = \"1\", a \
                    list, or \"*\"",
                )?;
                (KeyKind::Hash(values), name)
            }
            (None, None, None, Some(name)) => (KeyKind::Keys, name),
            _ => return Err("promised: write one of set, sorted_set, hash, keys".to_owned()),
        };
        if kind == KeyKind::Keys && name.matches(USER).count() != 1 {
            return Err(
                "promised.keys: write {user} once, as in \"coupon:{id}:{user}\"".to_owned(),
            );
        }
        Ok(Self {
            kind,
            name,
            key_form: words.key_form.unwrap_or(words.form),
            members: Members::new(words.form, words.member.as_deref())?,
            except: words.except,
        })
    }
}
