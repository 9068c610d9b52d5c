//! The repair of one user: one transaction that proves itself before COMMIT, or is rolled back.
//!
//! In order of time: `resolve` closes the user's failed event, `issue` writes the row, each
//! statement changing exactly one row; for the first repair of a pass, `issued` and the campaign's
//! checks are read as they are written; Redis is asked whether the user is still promised, and
//! whether more was promised meanwhile than was left; COMMIT. All of it takes a second at most: the
//! locks are those of their sale. Only the first repair of a pass may take longer where reading all
//! rows does.

use firstcome_shared::report::Outcome;
use tokio::time::timeout;

use crate::error::{Answer, AttachError};
use crate::file::Campaign;
use crate::judge::Comparison;
use crate::look::{PromisedUser, Target, check, rows};
use crate::sql::{Database, PROOF_LIMIT, Purpose, Reference, Session};
use crate::store::{REPAIR_ANSWER, Store};
use crate::text::Field;
use crate::theirs::Theirs;
use crate::users::{Hasher, has};

/// Repairs in a row that may fail by anything but their own statement: a lock, a check, the proof.
/// What stands in the way of them then stands in the way of all, and each waits for it in a
/// transaction.
const FAILURES: usize = 3;

/// The repairs of a campaign in a pass, with limits from the look that planned them.
pub struct Repairs<'a> {
    target: &'a Target<'a>,
    hasher: &'a Hasher,
    database: Database,
    session: Session,
    store: Option<Store>,
    /// Entries that the keys may have. `None`: it cannot be asked.
    grows_to: Option<u64>,
    /// A row of this pass was proved by reading `issued`.
    is_proved: bool,
    /// Since the last COMMIT.
    failures: usize,
}

impl<'a> Repairs<'a> {
    /// Refuses two servers, a read-only one, a replica in Redis, and tables that cannot be rolled
    /// back.
    pub async fn begin(
        database: &Database,
        hasher: &'a Hasher,
        theirs: &mut Theirs,
        compared: &'a Comparison<'_>,
    ) -> Answer<Self> {
        let Comparison { target, look, .. } = compared;
        let mut session = database.open(Purpose::Repair).await?;
        let server = session.server().await?;
        if server.id != theirs.session().await?.server().await?.id {
            let why = "database: reads and writes reach two servers: name the primary";
            return Err(AttachError::misfit(why));
        }
        if server.is_read_only {
            let why = "database: this server is read-only, as a replica is: name the primary";
            return Err(AttachError::misfit(why));
        }
        must_be_safe(&mut session, target.block).await?;
        if let Some(store) = &mut theirs.redis {
            store.must_be_master().await?;
        }
        let quantity = target.quantity.unwrap_or(u64::MAX);
        let left = quantity.saturating_sub(compared.owed);
        Ok(Self {
            target,
            hasher,
            database: database.clone(),
            session,
            store: theirs.redis.clone(),
            grows_to: look.promised.size.map(|size| size.saturating_add(left)),
            is_proved: false,
            failures: 0,
        })
    }

    /// Whether their database refuses a second row of users who have rows of theirs. What collides
    /// with their row will be collided with by the row of a late message. Always rolled back.
    pub async fn refuses_second_row(&mut self, users: &[PromisedUser]) -> Answer<bool> {
        for user in users {
            let is_refused = match self.is_refused(user).await {
                Err(AttachError::Lost(_)) => {
                    self.session = self.database.open(Purpose::Repair).await?;
                    false
                }
                tried => tried?,
            };
            if !is_refused {
                return Ok(false);
            }
        }
        Ok(!users.is_empty())
    }

    async fn is_refused(&mut self, user: &PromisedUser) -> Answer<bool> {
        self.session.begin().await?;
        let mut is_refused = false;
        for query in self.target.writes(user) {
            // A sold-out stock changes no row, and proves nothing by itself.
            match self.session.change(query).await {
                Ok(_) => {}
                Err(AttachError::Refused { refusal, .. }) => {
                    is_refused = refusal.is_duplicate;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.session.rollback().await?;
        Ok(is_refused)
    }

    /// Whether the other users have to wait for the next pass.
    pub fn have_failed(&self) -> bool {
        self.failures >= FAILURES
    }

    /// Writes the row of one user. Returns why not: it is not needed any more, or was rolled back.
    pub async fn repair(&mut self, lost: &PromisedUser) -> (Outcome, Option<String>) {
        let (outcome, why) = match self.write_and_prove(lost).await {
            Ok(None) if self.session.commit().await.is_ok() => {
                self.failures = 0;
                return (Outcome::Applied, None);
            }
            Ok(None) => {
                self.failures = FAILURES;
                let why = "the answer to COMMIT was lost: the next look tells";
                return (Outcome::Skipped, Some(why.to_owned()));
            }
            Ok(Some(why)) => (Outcome::Skipped, why),
            Err(error) => {
                let is_refused = matches!(error, AttachError::Refused { .. });
                self.failures += usize::from(!is_refused);
                (Outcome::Failed, error.to_string())
            }
        };
        if self.session.rollback().await.is_err() {
            // The session is closed, and the server rolls back.
            match self.database.open(Purpose::Repair).await {
                Ok(session) => self.session = session,
                Err(_) => self.failures = FAILURES,
            }
        }
        (outcome, Some(why))
    }

    /// Returns why the row must not be written; `None` if it may be committed.
    async fn write_and_prove(&mut self, lost: &PromisedUser) -> Answer<Option<String>> {
        self.session.begin().await?;
        if !self.is_proved {
            // A check that fails now could be silent by coincidence afterwards.
            self.must_be_silent("").await?;
        }
        for query in self.target.writes(lost) {
            let changed = self.session.change(query).await?;
            if changed != 1 {
                let field = query.field;
                let why = format!("{field} changed {changed} rows, and not one");
                return Err(AttachError::Misfit(why));
            }
        }
        if !self.is_proved {
            self.session.extend(PROOF_LIMIT);
            self.must_be_issued_once(&lost.name).await?;
            self.must_be_silent("then ").await?;
            self.is_proved = true;
        }
        let asked = timeout(REPAIR_ANSWER, self.why_not_promised(lost));
        asked.await.unwrap_or_else(|_| {
            let why = "your Redis did not answer in time";
            Err(AttachError::Lost(why.to_owned()))
        })
    }

    /// Reads `issued` inside the transaction.
    async fn must_be_issued_once(&mut self, user: &str) -> Answer<()> {
        let Some(statement) = &self.target.block.issued else {
            return Ok(());
        };
        let query = self.target.query(Field::Issued, statement);
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

    /// Refuses a check that returns a row.
    async fn must_be_silent(&mut self, then: &str) -> Answer<()> {
        let target = self.target;
        for number in 1..=target.block.checks().len() {
            let rows = check(&mut self.session, target, number, self.hasher).await?;
            if !rows.is_empty() {
                let why = format!("check {number} {then}returns a row");
                return Err(AttachError::Misfit(why));
            }
        }
        Ok(())
    }

    /// Returns why the user is not owed a row any more. Of a SELECT, what the look has read counts.
    async fn why_not_promised(&mut self, user: &PromisedUser) -> Answer<Option<String>> {
        let keys = self.target.block.keys();
        let (Some(store), Some(key)) = (&mut self.store, keys.get(user.key)) else {
            return Ok(None);
        };
        let id = &self.target.id;
        if !store.holds(key, id, &user.written).await? {
            let why = "the user is not promised a coupon any more";
            return Ok(Some(why.to_owned()));
        }
        let size = store.size(keys, id).await?;
        let is_more = size
            .zip(self.grows_to)
            .is_some_and(|(size, most)| size > most);
        let why = "more was promised meanwhile than was left";
        Ok(is_more.then(|| why.to_owned()))
    }
}

/// Refuses tables that cannot be rolled back, and rows that lock a number before it is moved.
async fn must_be_safe(session: &mut Session, block: &Campaign) -> Answer<()> {
    let tables = session.unsafe_tables().await?;
    if let Some(table) = tables.iter().find(|table| is_named(block, table)) {
        return Err(AttachError::Misfit(format!(
            "table {table} is not transactional: a repair there cannot be taken back"
        )));
    }
    let references = session.references().await?;
    if let Some(Reference { table, to }) = references.iter().find(|key| may_deadlock(block, key)) {
        return Err(AttachError::Misfit(format!(
            "issue: a row of {table} locks the row of {to} that it refers to. Two that then \
            update it wait for each other, and one is refused, perhaps your consumer's: write \
            the UPDATE of {to} before the INSERT"
        )));
    }
    Ok(())
}

/// Whether a statement that writes has this word.
fn is_named(block: &Campaign, table: &str) -> bool {
    let mut statements = block.issue.iter().chain(&block.resolve);
    statements.any(|statement| statement.has_word(table))
}

/// Whether `issue` writes a row before it updates the row that this key refers to.
fn may_deadlock(block: &Campaign, key: &Reference) -> bool {
    let place = |word: &str, table: &str| {
        let mut statements = block.issue.iter();
        statements.position(|statement| statement.has_word(word) && statement.has_word(table))
    };
    let places = place("INSERT", &key.table).zip(place("UPDATE", &key.to));
    places.is_some_and(|(inserted, updated)| inserted < updated)
}
