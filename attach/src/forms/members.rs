//! How the users of a key are written.

use super::{Form, SPELLINGS, Spelling, java, json_texts};

/// How users are written in a key: a form, and a text around the id, such as `user:{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    form: Form,
    before: String,
    after: String,
}

/// What stands for the id in `users.member`.
const ID: &str = "{id}";

impl Members {
    /// # Errors
    /// What to write instead, if `member` does not have `{id}` once.
    pub fn new(form: Form, member: Option<&str>) -> Result<Self, String> {
        match member.unwrap_or(ID).split_once(ID) {
            Some((before, after)) if !after.contains(ID) => Ok(Self {
                form,
                before: before.to_owned(),
                after: after.to_owned(),
            }),
            _ => Err("users.member: write {id} once, as in \"user:{id}\"".to_owned()),
        }
    }

    /// Decodes a member into its user and its spelling. Returns `None` if it has another form.
    pub fn decode(&self, bytes: &[u8]) -> Option<(String, Spelling)> {
        let (text, spelling) = self.form.decode(bytes)?;
        let behind = text.strip_prefix(self.before.as_str())?;
        let user = behind.strip_suffix(self.after.as_str())?;
        Some((user.to_owned(), spelling))
    }

    /// Says what to write so that this member is read.
    fn advice(&self, strange: &[u8]) -> String {
        let guess = Form::guess(strange);
        if self.form.decode(strange).is_some() {
            "write member = \"user:{id}\" with the text around the id".to_owned()
        } else if guess == Form::Plain && guess.decode(strange).is_none() {
            "bytes of another serializer (Redisson's default?): use StringCodec, or leave users out"
                .to_owned()
        } else if guess == self.form || guess.decode(strange).is_none() {
            "only String and Long can be read".to_owned()
        } else {
            format!("write form = {:?}", guess.word())
        }
    }

    /// Returns the usual spellings of this user. `decode` maps each of them back to the user.
    pub fn all(&self, user: &str) -> Vec<Vec<u8>> {
        let text = format!("{}{user}{}", self.before, self.after);
        let mut all: Vec<Vec<u8>> = self
            .form
            .spellings()
            .iter()
            .filter_map(|spelling| spelling.encode(&text))
            .collect();
        if self.form == Form::Json {
            for written in json_texts(&text) {
                if !all.contains(&written) {
                    all.push(written);
                }
            }
        }
        all
    }

    /// Returns the member of a user; `None` if [`Spelling::encode`] returns `None`.
    pub fn encode(&self, spelling: Spelling, user: &str) -> Option<Vec<u8>> {
        spelling.encode(&format!("{}{user}{}", self.before, self.after))
    }
}

/// Maximum number of members of another form that are reported one by one.
const NAMED: usize = 100;

/// Counts how the members of a key are written, and keeps those in another form.
#[derive(Debug, Clone, Default)]
pub struct Census {
    numbers: [u64; SPELLINGS.len()],
    strange: u64,
    named: Vec<Vec<u8>>,
}

impl Census {
    /// Counts a member, and returns its user; `None` if the member has another form.
    pub fn note(&mut self, members: &Members, bytes: Vec<u8>) -> Option<String> {
        let Some((user, spelling)) = members.decode(&bytes) else {
            self.strange += 1;
            if self.named.len() < NAMED {
                self.named.push(bytes);
            }
            return None;
        };
        let at = SPELLINGS.iter().position(|it| *it == spelling)?;
        self.numbers[at] += 1;
        Some(user)
    }

    /// Returns how most members are written.
    pub fn majority(&self, members: &Members) -> Spelling {
        let most = SPELLINGS
            .into_iter()
            .zip(self.numbers)
            .filter(|(_, number)| *number > 0)
            .max_by_key(|(_, number)| *number);
        most.map_or(members.form.usual(), |(spelling, _)| spelling)
    }

    /// Returns members that do not have the form of the file, at most 100 of them.
    ///
    /// # Errors
    /// If more than 1 % of the members are of another form, the file is wrong: the error names the
    /// form to write. A single such member is no error if others can be read.
    pub fn strange(&self, members: &Members, key: &str) -> Result<Vec<String>, String> {
        let decoded: u64 = self.numbers.iter().sum();
        let all = decoded + self.strange;
        let is_few = self.strange <= (all / 100).max(1) && (decoded > 0 || all == 0);
        if is_few {
            let named = self.named.iter();
            return Ok(named.map(|it| it.escape_ascii().to_string()).collect());
        }
        let first = self.named.first().map(Vec::as_slice).unwrap_or_default();
        Err(format!(
            "users.form: {} of {all} members of key {key:?} are not as the file says (form = {:?}); \
             one is {}: {}",
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
