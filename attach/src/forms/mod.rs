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
            Self::Java => java::text(name),
        }
    }

    /// Returns the name of a field of a hash.
    pub fn field(self, name: &str) -> Vec<u8> {
        match self {
            Self::Plain | Self::Java => self.key(name),
            Self::Json => format!("\"{name}\"").into_bytes(),
        }
    }
}

/// Whether a text is a number in its canonical notation.
pub fn is_whole(text: &str) -> bool {
    let number = text.parse::<i128>();
    number.is_ok_and(|number| number.to_string() == text)
}

fn decode_json(bytes: &[u8]) -> Option<String> {
    use serde_json::Value::{Array, Number, String};

    match serde_json::from_slice(bytes).ok()? {
        String(text) => Some(text),
        Number(id) => Some(id.to_string()).filter(|id| is_whole(id)),
        Array(pair) => match <[_; 2]>::try_from(pair).ok()? {
            [String(class), Number(id)] if class == "java.lang.Long" => Some(id.to_string()),
            _ => None,
        },
        _ => None,
    }
}
