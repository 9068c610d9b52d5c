//! How the users of a key are written.

use super::{Form, java};

/// How users are written in a key: a form, and a text around the user, such as `user:{user}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    pub form: Form,
    before: String,
    after: String,
}

/// What stands for the user in `member`.
const USER: &str = "{user}";

impl Members {
    /// # Errors
    /// What to write instead, if `member` does not have `{user}` once.
    pub fn new(form: Form, member: Option<&str>) -> Result<Self, String> {
        match member.unwrap_or(USER).split_once(USER) {
            Some((before, after)) if !after.contains(USER) => Ok(Self {
                form,
                before: before.to_owned(),
                after: after.to_owned(),
            }),
            _ => Err("promised.member: write {user} once, as in \"user:{user}\"".to_owned()),
        }
    }

    /// Decodes a member into its user; `None` if it has another form.
    pub fn decode(&self, bytes: &[u8]) -> Option<String> {
        let text = self.form.decode(bytes)?;
        let behind = text.strip_prefix(self.before.as_str())?;
        let user = behind.strip_suffix(self.after.as_str())?;
        Some(user.to_owned())
    }

    /// Writes a user as this other member is written; `None` if programs may write it in several
    /// ways, such as with or without escapes in JSON.
    pub fn like(&self, example: &[u8], user: &str) -> Option<Vec<u8>> {
        let text = format!("{}{user}{}", self.before, self.after);
        let written = match self.form {
            Form::Plain => text.into_bytes(),
            Form::Java => java::like(example, &text)?,
            Form::Json => {
                let is_safe = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
                let example = str::from_utf8(example).ok()?;
                let other = self.decode(example.as_bytes())?;
                let at = example
                    .rfind(&other)
                    .filter(|_| user.chars().all(is_safe))?;
                let after = &example[at + other.len()..];
                format!("{}{user}{after}", &example[..at]).into_bytes()
            }
        };
        (self.decode(&written)? == user).then_some(written)
    }
}
