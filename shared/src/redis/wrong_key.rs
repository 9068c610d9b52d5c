//! Recognizes errors about keys whose content Firstcome did not write, and finds their names.

use redis::{ErrorKind, RedisError};

use super::Redis;
use super::keys::DropKeys;

/// Whether an error concerns only the content of a key, so that other keys can be read.
pub fn is_about_data(error: &RedisError) -> bool {
    let of_a_key = |code: &str, detail: &str| {
        code == "WRONGTYPE"
            || code == "ERR"
                && ["user_script", "not an integer", "not a valid float"]
                    .iter()
                    .any(|t| detail.contains(t))
    };
    matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    ) || error.clone().into_server_errors().is_some_and(|errors| {
        errors
            .iter()
            .any(|(_, e)| of_a_key(e.code(), e.details().unwrap_or_default()))
    })
}

/// A key of another type than Firstcome expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongKey {
    pub key: String,
    /// The actual type.
    pub found: &'static str,
    /// The expected type.
    pub wanted: &'static str,
}

/// Redis's name and a readable name for each type.
const TYPES: [(&str, &str); 6] = [
    ("string", "a string"),
    ("list", "a list"),
    ("set", "a set"),
    ("zset", "a sorted set"),
    ("hash", "a hash"),
    ("stream", "a stream"),
];

fn type_in_words(word: &str) -> &'static str {
    TYPES
        .iter()
        .find(|(name, _)| *name == word)
        .map_or("of an unknown type", |(_, words)| words)
}

impl Redis {
    /// Finds the first key of a drop or its coupon that has an unexpected type.
    pub async fn wrong_key(&self, keys: &DropKeys) -> Result<Option<WrongKey>, RedisError> {
        let wanted = keys.types();
        let mut pipe = redis::pipe();
        for (key, _) in wanted {
            pipe.cmd("TYPE").arg(key);
        }
        let found: Vec<String> = pipe.query_async(&mut self.connection()).await?;
        let wrong = wanted
            .iter()
            .zip(found)
            .find(|((_, wanted), found)| found != "none" && found != wanted);
        Ok(wrong.map(|((key, wanted), found)| WrongKey {
            key: (*key).to_owned(),
            found: type_in_words(&found),
            wanted: type_in_words(wanted),
        }))
    }
}
