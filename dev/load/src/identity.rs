//! Tokens of users: those that an API on this machine accepts, and those of a file.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use firstcome_stack::tokens;
use serde_json::json;

/// Lifetime of a token.
const GOOD_FOR: Duration = Duration::from_secs(6 * 60 * 60);
const ISSUER: &str = "firstcome-load";
const AUDIENCE: &str = "firstcome";

/// Returns the settings of an API that accepts the tokens of [`token`].
pub fn token_settings(secret: &str) -> [(&'static str, &str); 5] {
    [
        ("USER_AUTH", "jwt"),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_SECRET", secret),
        ("JWT_ISSUER", ISSUER),
        ("JWT_AUDIENCE", AUDIENCE),
    ]
}

/// Creates the token of one user, signed with a shared secret (HS256).
pub fn token(secret: &str, user: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let exp = (now + GOOD_FOR).as_secs();
    let claims =
        json!({"sub": user, "exp": exp, "iat": now.as_secs(), "iss": ISSUER, "aud": AUDIENCE});
    let header = json!({"alg": "HS256", "typ": "JWT"});
    Ok(tokens::token(&header, &claims, secret.as_bytes()))
}

/// Reads a file with one token per line. Returns the value of the `Authorization` header for each
/// token.
pub fn read_tokens(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(|token| format!("Bearer {token}")).collect())
}
