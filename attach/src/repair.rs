//! The repair of one user: one transaction that proves itself before COMMIT, or is rolled back.
//!
//! In order of time: `resolve` closes the user's failed event, `issue` writes the row, each
//! statement changing exactly one row; for the first repair of a pass, `issued` and the campaign's
//! checks are read as they are written; Redis is asked whether the user is still promised, and
//! whether more was promised meanwhile than was left; COMMIT. All of it takes a second at most: the
//! locks are those of their sale.

use tokio::time::{Instant, timeout};

use crate::checks::first_failing;
use crate::error::{Answer, AttachError};
use crate::file::{Campaign, Promised, UsersKey};
use crate::judge::Comparison;
use crate::look::{Look, PromisedUser, PromisedUsers, Target, rows};
use crate::sql::{Database, Purpose, Query, REPAIR_LIMIT, Server, Session};
use crate::store::{REPAIR_ANSWER, Store};
use crate::text::{Statement, Values};
use crate::users::Hasher;

/// A promised user without a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostUser {
    pub user: PromisedUser,
    /// The open event of the same claim.
    pub event: Option<String>,
}

/// How a repair ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repaired {
    /// The row is there.
    Written,
    /// Nothing was changed: it is not needed any more, or not allowed.
    Skipped(String),
    /// It was rolled back.
    Failed(String),
    /// The answer to COMMIT was lost. The next look knows.
    Unknown,
}

/// The limits of a campaign's repairs, from the look that planned them.
pub struct Repairs<'a> {
    target: &'a Target<'a>,
    hasher: &'a Hasher,
    database: &'a Database,
    session: Session,
    store: Option<Store>,
    /// Entries of the keys at the look, and how many more may come. `None`: it cannot be asked.
    grows_to: Option<u64>,
    /// A row of this pass was proved by reading `issued`.
    is_proved: bool,
}

/// Refuses two servers, a read-only one, a replica in Redis, and tables that cannot be rolled back.
pub async fn must_be_repairable(
    target: &Target<'_>,
    read: &mut Session,
    repair: &mut Session,
    store: Option<&mut Store>,
) -> Answer<()> {
    let [reads, writes]: [Server; 2] = [read.server().await?, repair.server().await?];
    if reads.id != writes.id {
        return Err(AttachError::misfit(
            "database: reads and writes reach two servers: name the primary",
        ));
    }
    if writes.is_read_only {
        return Err(AttachError::misfit(
            "database: this server is read-only, as a replica is: name the primary",
        ));
    }
    if let Some(store) = store {
        store.must_be_master().await?;
    }
    let tables = repair.unsafe_tables().await?;
    match tables.iter().find(|table| is_named(target.block, table)) {
        None => Ok(()),
        Some(table) => Err(AttachError::Misfit(format!(
            "table {table} is not transactional: a repair there cannot be taken back"
        ))),
    }
}

/// Whether a statement that writes has this word.
fn is_named(block: &Campaign, table: &str) -> bool {
    let mut statements = block.issue.iter().chain(&block.resolve);
    statements.any(|statement| {
        let text = statement.to_string();
        let mut words =
            text.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$');
        words.any(|word| word.eq_ignore_ascii_case(table))
    })
}

impl<'a> Repairs<'a> {
    pub async fn begin(
        target: &'a Target<'a>,
        hasher: &'a Hasher,
        database: &'a Database,
        read: &mut Session,
        mut store: Option<Store>,
    ) -> Answer<Self> {
        let mut session = database.open(Purpose::Repair).await?;
        must_be_repairable(target, read, &mut session, store.as_mut()).await?;
        Ok(Self {
            target,
            hasher,
            database,
            session,
            store,
            grows_to: None,
            is_proved: false,
        })
    }

    /// Allows the keys to grow by what was left at a look.
    pub fn limit(&mut self, look: &Look, compared: &Comparison) {
        let size = look.promised.as_ref().and_then(PromisedUsers::size);
        self.grows_to = size.map(|size| {
            let left = self
                .target
                .quantity
                .map(|quantity| quantity.saturating_sub(compared.owed));
            left.map_or(u64::MAX, |left| size.saturating_add(left))
        });
    }

    /// Whether their database refuses a second row of users who have rows of theirs. What collides
    /// with their row will be collided with by the row of a late message. Always rolled back.
    pub async fn refuses_second_row(&mut self, users: &[String]) -> Answer<bool> {
        for user in users {
            let until = Instant::now() + REPAIR_LIMIT;
            self.session.begin(until).await?;
            let mut is_refused = false;
            for number in 0..self.target.block.issue.len() {
                // A sold-out stock changes no row, and proves nothing by itself.
                match self.issue(number, user, until).await {
                    Ok(_) => {}
                    Err(AttachError::Refused { refusal, .. }) => {
                        is_refused = refusal.is_duplicate;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.session.rollback(until).await?;
            if !is_refused {
                return Ok(false);
            }
        }
        Ok(!users.is_empty())
    }

    async fn issue(&mut self, number: usize, user: &str, until: Instant) -> Answer<u64> {
        let field = format!("issue {}", number + 1);
        let statement = &self.target.block.issue[number];
        let values = Values {
            user,
            ..self.target.values()
        };
        self.change(&field, statement, values, until).await
    }

    async fn change(
        &mut self,
        field: &str,
        statement: &Statement,
        values: Values<'_>,
        until: Instant,
    ) -> Answer<u64> {
        let query = Query {
            field,
            statement,
            values,
            until,
        };
        self.session.change(query).await
    }

    /// Writes the row of one user.
    pub async fn repair(&mut self, lost: &LostUser) -> Answer<Repaired> {
        let until = Instant::now() + REPAIR_LIMIT;
        self.session.begin(until).await?;
        let proved = match self.write_and_prove(lost, until).await {
            Ok(proved) => proved,
            // A refusal leaves the session usable, and so does what does not fit.
            Err(AttachError::Refused { field, refusal }) => {
                Some(Repaired::Failed(format!("{field}: {}", refusal.why)))
            }
            Err(AttachError::Misfit(why)) => Some(Repaired::Failed(why)),
            Err(error) => Some(Repaired::Failed(error.to_string())),
        };
        if let Some(ended) = proved {
            if self.session.rollback(until).await.is_err() {
                // The session is closed, and the server rolls back.
                self.session = self.database.open(Purpose::Repair).await?;
            }
            return Ok(ended);
        }
        match self.session.commit(until).await {
            Ok(()) => {
                self.is_proved = true;
                Ok(Repaired::Written)
            }
            Err(_) => Ok(Repaired::Unknown),
        }
    }

    /// Returns why the transaction must be rolled back; `None` if it may be committed.
    async fn write_and_prove(
        &mut self,
        lost: &LostUser,
        until: Instant,
    ) -> Answer<Option<Repaired>> {
        let user = lost.user.name.as_str();
        // A check that fails now could be silent by coincidence afterwards.
        if !self.is_proved
            && let Some(number) = self.failing_check(until).await?
        {
            return Ok(Some(Repaired::Skipped(format!(
                "check {number} returns a row"
            ))));
        }
        if let (Some(event), Some(resolve)) = (&lost.event, &self.target.block.resolve) {
            let values = Values {
                user,
                failed: event,
                ..self.target.values()
            };
            let changed = self.change("resolve", resolve, values, until).await?;
            if changed != 1 {
                return Ok(Some(not_one("resolve", changed)));
            }
        }
        for number in 0..self.target.block.issue.len() {
            let changed = self.issue(number, user, until).await?;
            if changed != 1 {
                return Ok(Some(not_one(&format!("issue {}", number + 1), changed)));
            }
        }
        if !self.is_proved
            && let Some(why) = self.contradiction(user, until).await?
        {
            return Ok(Some(Repaired::Failed(why)));
        }
        self.still_promised(&lost.user).await
    }

    /// Reads `issued` and the checks inside the transaction.
    async fn contradiction(&mut self, user: &str, until: Instant) -> Answer<Option<String>> {
        let values = self.target.values();
        if let Some(statement) = &self.target.block.issued {
            let query = Query {
                field: "issued",
                statement,
                values,
                until,
            };
            let rows = rows(&mut self.session, query, self.hasher, None).await?;
            let user = self.hasher.user(user);
            let number = rows.counted.iter().filter(|it| **it == user).count();
            if number != 1 || rows.uncounted.binary_search(&user).is_ok() {
                return Ok(Some(format!(
                    "issued then returns the user {number} times with a row that counts, and not \
                    once"
                )));
            }
        }
        let failing = self.failing_check(until).await?;
        Ok(failing.map(|number| format!("check {number} then returns a row")))
    }

    async fn failing_check(&mut self, until: Instant) -> Answer<Option<usize>> {
        let checks = self.target.block.checks();
        let values = self.target.values();
        first_failing(&mut self.session, checks, values, until).await
    }

    async fn still_promised(&mut self, user: &PromisedUser) -> Answer<Option<Repaired>> {
        let Promised::Keys(keys) = &self.target.block.promised else {
            // What the look of this pass has read counts.
            return Ok(None);
        };
        let (Some(store), Some(key)) = (&mut self.store, keys.get(user.key)) else {
            return Ok(None);
        };
        let id = &self.target.id;
        let asked = async {
            let is_promised = store.holds(key, id, &user.written).await?;
            let size = size(store, keys, id).await?;
            Ok::<_, AttachError>((is_promised, size))
        };
        let late = || AttachError::Lost("your Redis did not answer in time".to_owned());
        let (is_promised, size) = timeout(REPAIR_ANSWER, asked).await.map_err(|_| late())??;
        if !is_promised {
            let why = "the user is not promised a coupon any more";
            return Ok(Some(Repaired::Skipped(why.to_owned())));
        }
        if let (Some(size), Some(most)) = (size, self.grows_to)
            && size > most
        {
            let why = "more was promised meanwhile than was left";
            return Ok(Some(Repaired::Skipped(why.to_owned())));
        }
        Ok(None)
    }
}

fn not_one(field: &str, changed: u64) -> Repaired {
    Repaired::Failed(format!("{field} changed {changed} rows, and not one"))
}

async fn size(store: &mut Store, keys: &[UsersKey], id: &str) -> Answer<Option<u64>> {
    let mut all = 0;
    for key in keys {
        match store.size(key, id).await? {
            Some(size) => all += size,
            None => return Ok(None),
        }
    }
    Ok(Some(all))
}
