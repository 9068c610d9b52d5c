//! Codec of user ids: how their programs write one as a member, a field or a key in Redis (plain
//! text, JSON, Java serialisation). Members are compared decoded.

mod java;
mod members;

use serde::Deserialize;

pub use members::Members;

/// The form in which their program writes users to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    #[default]
    Plain,
    /// As JSON libraries write it: `"user-1"` or `42`; with Jackson, also `["java.lang.Long",42]`.
    Json,
    /// As `RedisTemplate` writes it by default: a serialised `String` or `Long`; the key's name,
    /// too.
    Java,
}

/// How one member is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    Plain,
    JsonText,
    JsonNumber,
    /// With the name of its class, as Jackson's default typing writes it.
    JsonTyped,
    JavaText,
    JavaNumber,
}

/// The class of a typed number in JSON.
const JAVA_LONG: &str = "java.lang.Long";

impl Form {
    /// Returns its word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Json => "json",
            Self::Java => "java",
        }
    }

    /// Returns the form that bytes have at first sight.
    fn guess(bytes: &[u8]) -> Self {
        match bytes {
            [b'"' | b'[', ..] => Self::Json,
            _ if bytes.starts_with(java::MAGIC) => Self::Java,
            _ => Self::Plain,
        }
    }

    /// Returns the text of a member, and how it is written; `None` if it has another form.
    pub fn decode(self, bytes: &[u8]) -> Option<(String, Spelling)> {
        match self {
            Self::Plain => {
                let text = str::from_utf8(bytes).ok()?;
                let is_plain =
                    Self::guess(bytes) == Self::Plain && !text.contains(char::is_control);
                is_plain.then(|| (text.to_owned(), Spelling::Plain))
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
        let spelling = match self {
            Self::Plain => Spelling::Plain,
            Self::Json => Spelling::JsonText,
            Self::Java => Spelling::JavaText,
        };
        let written = spelling.encode(name);
        written.unwrap_or_else(|| name.as_bytes().to_vec())
    }
}

impl Spelling {
    /// Writes a text; `None` if this spelling cannot hold it, or if programs may write it in
    /// several ways, such as with or without escapes in JSON.
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Plain => Form::Plain.decode(text.as_bytes()).map(|_| text.into()),
            Self::JsonText => {
                let is_safe = text.chars().all(is_never_escaped);
                is_safe.then(|| format!("\"{text}\"").into_bytes())
            }
            Self::JsonNumber => number(text).map(|number| number.to_string().into_bytes()),
            Self::JsonTyped => {
                let number = number(text)?;
                Some(format!("[\"{JAVA_LONG}\",{number}]").into_bytes())
            }
            Self::JavaText => java::text(text),
            Self::JavaNumber => number(text)?.try_into().ok().map(java::number),
        }
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

fn decode_json(bytes: &[u8]) -> Option<(String, Spelling)> {
    use serde_json::Value::{Array, Number, String};

    let whole = |id: serde_json::Number| number(&id.to_string()).map(|id| id.to_string());
    match serde_json::from_slice(bytes).ok()? {
        String(text) => Some((text, Spelling::JsonText)),
        Number(id) => Some((whole(id)?, Spelling::JsonNumber)),
        Array(pair) => match <[_; 2]>::try_from(pair).ok()? {
            [String(class), Number(id)] if class == JAVA_LONG => {
                Some((whole(id)?, Spelling::JsonTyped))
            }
            _ => None,
        },
        _ => None,
    }
}
