//! Tokens and signing keys in settings.

use secrecy::{ExposeSecret as _, SecretString};

/// Minimum length of a token, in characters.
const MIN_TOKEN_CHARS: usize = 32;

/// Parses one secret of at least 32 printable ASCII characters, or two separated by a comma: during
/// a rotation, both the old and the new one are valid. `name` is the setting's name.
///
/// # Errors
/// Returns a description of the fault, never with the secret.
pub(crate) fn secrets(name: &str, secret: &SecretString) -> Result<Vec<SecretString>, String> {
    let secrets: Vec<&str> = secret.expose_secret().split(',').collect();
    if secrets.len() > 2 {
        return Err(format!("{name} may hold two tokens by a comma, not more"));
    }
    for secret in &secrets {
        let chars = secret.len();
        if chars < MIN_TOKEN_CHARS {
            return Err(format!(
                "{name} has {chars} characters; it needs at least {MIN_TOKEN_CHARS}, for example \
                from `openssl rand -hex 32`"
            ));
        }
        if !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!(
                "{name} may hold printable ASCII characters without spaces only"
            ));
        }
    }
    Ok(secrets.into_iter().map(SecretString::from).collect())
}
