//! How the users of a key are written.

use super::Form;

/// How users are written in a key: a form, and a text around the user, such as `user:{user}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    form: Form,
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
    /// ways.
    pub fn like(&self, example: &[u8], user: &str) -> Option<Vec<u8>> {
        let text = format!("{}{user}{}", self.before, self.after);
        self.form.like(example, &text)
    }

    /// Says of a member that cannot be read how it is written, and what to write. At most a quarter
    /// of it, and no more than three bytes, is shown: it may be the whole id of a user.
    pub fn strange(&self, written: &[u8]) -> String {
        let length = written.len();
        let first = written[..(length / 4).min(3)].escape_ascii();
        let guess = Form::guess(written);
        let advice = if self.form.decode(written).is_some() {
            "write member = \"user:{user}\" with the text around the user".to_owned()
        } else if guess == self.form || guess.decode(written).is_none() {
            "only text, JSON, and Java's String and Long can be read".to_owned()
        } else {
            format!("write form = \"{guess}\"")
        };
        let form = self.form;
        format!("not {form}; one is {first}… of {length} bytes: {advice}")
    }
}
