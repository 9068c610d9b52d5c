//! Recognizes errors about keys whose content Firstcome did not write.

use redis::{ErrorKind, RedisError};

/// Whether an error concerns only the content of a key, so that other keys can be read.
pub fn is_about_data(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType
    ) || error.clone().into_server_errors().is_some_and(|errors| {
        errors.iter().any(|(_, error)| {
            let detail = error.details().unwrap_or_default();
            error.code() == "WRONGTYPE"
                || error.code() == "ERR"
                    && ["user_script", "not an integer", "not a valid float"]
                        .iter()
                        .any(|text| detail.contains(text))
        })
    })
}
