//! Codec of user ids: how their programs write one as a member, a field or a key in Redis (plain
//! text, JSON, Java serialisation). Members are compared decoded.

mod java;
mod members;

use serde::Deserialize;
use strum::Display;

pub use members::Members;

/// The form in which their program writes users to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Form {
    #[default]
    Plain,
    /// As JSON libraries write it: `"user-1"` or `42`; with Jackson, also `["java.lang.Long",42]`.
    Json,
    /// As `RedisTemplate` writes it by default: a serialised `String` or `Long`; the key's name,
    /// too.
    Java,
}

/// The class of a typed number in JSON.
const JAVA_LONG: &str = "java.lang.Long";

impl Form {
    /// Returns the form that bytes have at first sight.
    fn guess(bytes: &[u8]) -> Self {
        match bytes {
            [b'"' | b'[', ..] => Self::Json,
            _ if bytes.starts_with(java::MAGIC) => Self::Java,
            _ => Self::Plain,
        }
    }

    /// Returns the text of a member; `None` if it has another form.
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Plain => {
                let text = str::from_utf8(bytes).ok()?;
                let is_plain =
                    Self::guess(bytes) == Self::Plain && !text.contains(char::is_control);
                is_plain.then(|| text.to_owned())
            }
            Self::Json => decode_json(bytes),
            Self::Java => java::decode(bytes),
        }
    }

    /// Returns the name of a key.
    pub fn key(self, name: &str) -> Vec<u8> {
        match self {
            Self::Plain | Self::Json => name.as_bytes().to_vec(),
            Self::Java => java::text(name).unwrap_or_else(|| name.as_bytes().to_vec()),
        }
    }

    /// Returns the name of a field of a hash.
    pub fn field(self, name: &str) -> Vec<u8> {
        match self {
            Self::Json => format!("\"{name}\"").into_bytes(),
            Self::Plain | Self::Java => self.key(name),
        }
    }

    /// Writes a text as another one is written; `None` if that spelling cannot hold it, or if
    /// programs may write it in several ways, such as with or without escapes in JSON.
    fn like(self, example: &[u8], text: &str) -> Option<Vec<u8>> {
        let written = match self {
            Self::Plain => text.as_bytes().to_vec(),
            Self::Json => {
                let is_safe = text.chars().all(is_never_escaped);
                let example_text = decode_json(example).filter(|_| is_safe)?;
                let example = str::from_utf8(example).ok()?;
                example.replace(&example_text, text).into_bytes()
            }
            Self::Java => java::like(example, text)?,
        };
        let is_readable = self.decode(&written).as_deref() == Some(text);
        is_readable.then_some(written)
    }
}

/// Reads a number in its canonical notation. Ids may be above 2^63.
pub fn number(text: &str) -> Option<i128> {
    let number: i128 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Whether all programs write this letter in JSON without an escape. Gson escapes HTML characters,
/// Jackson on request everything that is not ASCII, and some libraries the slash.
fn is_never_escaped(letter: char) -> bool {
    matches!(letter, ' '..='~')
        && !matches!(letter, '"' | '\\' | '/' | '<' | '>' | '&' | '=' | '\'')
}

fn decode_json(bytes: &[u8]) -> Option<String> {
    use serde_json::Value::{Array, Number, String};

    let whole = |id: serde_json::Number| number(&id.to_string()).map(|id| id.to_string());
    match serde_json::from_slice(bytes).ok()? {
        String(text) => Some(text),
        Number(id) => whole(id),
        Array(pair) => match <[_; 2]>::try_from(pair).ok()? {
            [String(class), Number(id)] if class == JAVA_LONG => whole(id),
            _ => None,
        },
        _ => None,
    }
}
