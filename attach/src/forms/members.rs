//! How the users of a key are written.

use super::{Form, Spelling, java};

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
        self.spelled(bytes).map(|(user, _)| user)
    }

    fn spelled(&self, bytes: &[u8]) -> Option<(String, Spelling)> {
        let (text, spelling) = self.form.decode(bytes)?;
        let behind = text.strip_prefix(self.before.as_str())?;
        let user = behind.strip_suffix(self.after.as_str())?;
        Some((user.to_owned(), spelling))
    }

    /// Writes a user as this other member is written; `None` if programs may write it in several
    /// ways.
    pub fn like(&self, example: &[u8], user: &str) -> Option<Vec<u8>> {
        let (_, spelling) = self.spelled(example)?;
        spelling.encode(&format!("{}{user}{}", self.before, self.after))
    }

    /// Says what to write so that this member is read.
    fn advice(&self, strange: &[u8]) -> String {
        let guess = Form::guess(strange);
        if self.form.decode(strange).is_some() {
            "write member = \"user:{user}\" with the text around the user".to_owned()
        } else if guess == Form::Plain && guess.decode(strange).is_none() {
            "bytes of another serializer (Redisson's default?): use StringCodec, or leave promised \
            out"
            .to_owned()
        } else if guess == self.form || guess.decode(strange).is_none() {
            "only String and Long can be read".to_owned()
        } else {
            format!("write form = {:?}", guess.word())
        }
    }
}

/// Counts the members of a key that are in another form.
#[derive(Debug, Clone, Default)]
pub struct Census {
    decoded: u64,
    strange: u64,
    first_strange: Option<Vec<u8>>,
}

impl Census {
    /// Counts a member, and returns its user; `None` if the member has another form.
    pub fn note(&mut self, members: &Members, bytes: &[u8]) -> Option<String> {
        let user = members.decode(bytes);
        if user.is_some() {
            self.decoded += 1;
        } else {
            self.strange += 1;
            self.first_strange.get_or_insert_with(|| bytes.to_vec());
        }
        user
    }

    /// Returns how many members are in another form.
    ///
    /// # Errors
    /// If more than 1 % of the members are, the file is wrong: the error names the form to write.
    pub fn strange(&self, members: &Members, key: &str) -> Result<u64, String> {
        let all = self.decoded + self.strange;
        let is_few = self.strange <= (all / 100).max(1) && (self.decoded > 0 || all == 0);
        if is_few {
            return Ok(self.strange);
        }
        let first = self.first_strange.as_deref().unwrap_or_default();
        Err(format!(
            "promised: {} of {all} members of key {key:?} are not {}; one is {}: {}",
            self.strange,
            members.form.word(),
            description(first),
            members.advice(first)
        ))
    }
}

/// Describes a member by its class, or by its first bytes and its length. At most a quarter of it,
/// and no more than three bytes, is shown: a short member may be the whole id of a user.
fn description(bytes: &[u8]) -> String {
    if let Some(class) = java::class(bytes) {
        return format!("a serialised {class:?}");
    }
    let shown = (bytes.len() / 4).min(3);
    let first = bytes[..shown].escape_ascii();
    format!("{first}… of {} bytes", bytes.len())
}
