//! The repair of one user: one transaction that proves itself before COMMIT, or is rolled back.
//!
//! In order of time: `resolve` closes the user's failed event, `issue` writes the row, each
//! statement changing exactly one row; for the first repair of a pass, `issued` and the campaign's
//! checks are read as they are written; Redis is asked whether the user is still promised, and
//! whether more was promised meanwhile than was left; COMMIT. All of it takes a second at most: the
//! locks are those of their sale. Only the first repair of a pass may take longer where reading all
//! rows does.

use tokio::time::timeout;

use crate::error::{Answer, AttachError};
use crate::explain::Looked;
use crate::file::Campaign;
use crate::look::{PromisedUser, check, rows};
use crate::sql::{Database, PROOF_LIMIT, Purpose, Reference, Session};
use crate::store::{REPAIR_ANSWER, Store};
use crate::text::Statement;
use crate::theirs::Theirs;
use crate::users::{Hasher, has};

/// A promised user without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostUser {
    pub user: PromisedUser,
    /// The open event of the same claim.
    pub event: Option<String>,
    /// This process saw the user arrive.
    pub is_new: bool,
}

/// How a repair ended that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// The row is there.
    Written,
    /// Nothing was changed: it is not needed any more, or not allowed.
    Skipped(String),
    /// The answer to COMMIT was lost. The next look knows.
    Unknown,
}

/// The repairs of a campaign in a pass, with limits from the look that planned them.
pub struct Repairs<'a> {
    looked: &'a Looked<'a>,
    hasher: &'a Hasher,
    database: Database,
    session: Session,
    store: Option<Store>,
    /// A row of this pass was proved by reading `issued`.
    is_proved: bool,
}

impl<'a> Repairs<'a> {
    /// Refuses two servers, a read-only one, a replica in Redis, and tables that cannot be rolled
    /// back.
    pub async fn begin(
        database: &Database,
        hasher: &'a Hasher,
        theirs: &mut Theirs,
        looked: &'a Looked<'_>,
    ) -> Answer<Self> {
        let block = looked.target.block;
        let mut session = database.open(Purpose::Repair).await?;
        let server = session.server().await?;
        if server != theirs.session().await?.server().await? {
            let why = "database: reads and writes reach two servers: name the primary";
            return Err(AttachError::misfit(why));
        }
        if server.last() != Some(&Some("0".to_owned())) {
            let why = "database: this server is read-only, as a replica is: name the primary";
            return Err(AttachError::misfit(why));
        }
        let tables = session.unsafe_tables().await?;
        if let Some(table) = tables.iter().find(|table| is_named(block, table)) {
            return Err(AttachError::Misfit(format!(
                "table {table} is not transactional: a repair there cannot be taken back"
            )));
        }
        let references = session.references().await?;
        if let Some(key) = references.iter().find(|key| may_deadlock(block, key)) {
            let Reference { table, to } = key;
            return Err(AttachError::Misfit(format!(
                "issue: a row of {table} locks the row of {to} that it refers to. Two that then \
                update it wait for each other, and one is refused, perhaps your consumer's: write \
                the UPDATE of {to} before the INSERT"
            )));
        }
        if let Some(store) = &mut theirs.redis {
            store.must_be_master().await?;
        }
        Ok(Self {
            looked,
            hasher,
            database: database.clone(),
            session,
            store: theirs.redis.clone(),
            is_proved: false,
        })
    }

    /// Whether their database refuses a second row of users who have rows of theirs. What collides
    /// with their row will be collided with by the row of a late message. Always rolled back.
    pub async fn refuses_second_row(&mut self, users: &[String]) -> Answer<bool> {
        for user in users {
            self.session.begin().await?;
            let mut is_refused = false;
            for number in 0..self.looked.target.block.issue.len() {
                // A sold-out stock changes no row, and proves nothing by itself.
                match self.issue(number, user).await {
                    Ok(_) => {}
                    Err(AttachError::Refused { is_duplicate, .. }) => {
                        is_refused = is_duplicate;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.session.command("ROLLBACK").await?;
            if !is_refused {
                return Ok(false);
            }
        }
        Ok(!users.is_empty())
    }

    /// Returns how many rows a statement of `issue` has changed.
    async fn issue(&mut self, number: usize, user: &str) -> Answer<u64> {
        let target = self.looked.target;
        let field = format!("issue {}", number + 1);
        let mut query = target.query(&field, &target.block.issue[number]);
        query.values.user = user;
        self.session.change(query).await
    }

    /// Writes the row of one user. After an error, it was rolled back.
    pub async fn repair(&mut self, lost: &LostUser) -> Answer<Repaired> {
        self.session.begin().await?;
        let proved = self.write_and_prove(lost).await;
        if let Ok(Repaired::Written) = proved {
            if self.session.command("COMMIT").await.is_err() {
                self.session.close();
                return Ok(Repaired::Unknown);
            }
            self.is_proved = true;
        } else if self.session.command("ROLLBACK").await.is_err() {
            // The session is closed, and the server rolls back.
            self.session = self.database.open(Purpose::Repair).await?;
        }
        proved
    }

    /// Whether no further row may be written in this pass.
    pub fn is_over(&self) -> bool {
        !self.session.is_open()
    }

    /// Writes the row, and returns whether it may be committed.
    async fn write_and_prove(&mut self, lost: &LostUser) -> Answer<Repaired> {
        let user = lost.user.name.as_str();
        // A check that fails now could be silent by coincidence afterwards.
        if let Some(number) = self.failing_check().await? {
            return Ok(Repaired::Skipped(format!("check {number} returns a row")));
        }
        let target = self.looked.target;
        if let (Some(failed), Some(resolve)) = (&lost.event, &target.block.resolve) {
            let mut query = target.query("resolve", resolve);
            query.values.user = user;
            query.values.failed = failed;
            must_be_one("resolve", self.session.change(query).await?)?;
        }
        for number in 0..target.block.issue.len() {
            let changed = self.issue(number, user).await?;
            must_be_one(&format!("issue {}", number + 1), changed)?;
        }
        self.must_be_issued_once(user).await?;
        if let Some(number) = self.failing_check().await? {
            let why = format!("check {number} then returns a row");
            return Err(AttachError::Misfit(why));
        }
        let Ok(asked) = timeout(REPAIR_ANSWER, self.why_not_promised(&lost.user)).await else {
            return Err(AttachError::misfit("your Redis did not answer in time"));
        };
        Ok(match asked? {
            Some(why) => Repaired::Skipped(why.to_owned()),
            None => Repaired::Written,
        })
    }

    /// Reads `issued` inside the transaction, which may take longer for that.
    async fn must_be_issued_once(&mut self, user: &str) -> Answer<()> {
        let Looked { target, look, .. } = self.looked;
        let Some(statement) = target.block.issued.as_ref().filter(|_| !self.is_proved) else {
            return Ok(());
        };
        self.session.extend((look.rows.took * 2).min(PROOF_LIMIT));
        let query = target.query("issued", statement);
        let rows = rows(&mut self.session, query, self.hasher, None).await?;
        let user = self.hasher.user(user);
        let number = rows.counted.iter().filter(|it| **it == user).count();
        if number == 1 && !has(&rows.uncounted, user) {
            return Ok(());
        }
        Err(AttachError::Misfit(format!(
            "issued then returns the user {number} times with a row that counts, and not once"
        )))
    }

    /// Returns the number of the first check that returns a row, until a row was proved.
    async fn failing_check(&mut self) -> Answer<Option<usize>> {
        let target = self.looked.target;
        let numbers = 1..=target.block.checks().len();
        for number in numbers.filter(|_| !self.is_proved) {
            let rows = check(&mut self.session, target, number, self.hasher).await?;
            if !rows.is_empty() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Returns why the user is not owed a row any more. Of a SELECT, what the look has read counts.
    async fn why_not_promised(&mut self, user: &PromisedUser) -> Answer<Option<&'static str>> {
        let Looked {
            target,
            look,
            compared,
            ..
        } = self.looked;
        let keys = target.block.promised.keys();
        let (Some(store), Some(key)) = (&mut self.store, keys.get(user.key)) else {
            return Ok(None);
        };
        if !store.holds(key, &target.id, &user.written).await? {
            return Ok(Some("the user is not promised a coupon any more"));
        }
        let left = target
            .quantity
            .unwrap_or(u64::MAX)
            .saturating_sub(compared.owed);
        let before = look.promised.as_ref().and_then(|promised| promised.size);
        let now = store.size(keys, &target.id).await?;
        let more = now
            .zip(before)
            .map(|(now, before)| now.saturating_sub(before));
        let is_more = more.is_some_and(|more| more > left);
        Ok(is_more.then_some("more was promised meanwhile than was left"))
    }
}

/// Whether a statement that writes has this word.
fn is_named(block: &Campaign, table: &str) -> bool {
    let mut statements = block.issue.iter().chain(&block.resolve);
    statements.any(|statement| names(statement, table))
}

/// Whether `issue` writes a row before it updates the row that this key refers to.
fn may_deadlock(block: &Campaign, key: &Reference) -> bool {
    let place = |word: &str, table: &str| {
        let mut statements = block.issue.iter();
        statements.position(|statement| names(statement, word) && names(statement, table))
    };
    let places = place("INSERT", &key.table).zip(place("UPDATE", &key.to));
    places.is_some_and(|(inserted, updated)| inserted < updated)
}

fn names(statement: &Statement, wanted: &str) -> bool {
    let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$';
    let text = statement.to_string();
    let mut words = text.split(is_end);
    words.any(|word| word.eq_ignore_ascii_case(wanted))
}

fn must_be_one(field: &str, changed: u64) -> Answer<()> {
    if changed == 1 {
        return Ok(());
    }
    let why = format!("{field} changed {changed} rows, and not one");
    Err(AttachError::Misfit(why))
}
