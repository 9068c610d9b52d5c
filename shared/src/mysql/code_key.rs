//! The installation's key for codes (docs/decisions/0021-codes.md): reading and generating it, and
//! checking that rows have the codes derived from it.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use rand::RngExt as _;

use super::claim::Claim;
use super::codes::{CodeKey, secret_part_of};
use super::erased::is_pseudonym;
use super::issued::IssuedRow;
use super::schema::{code_key, issued_coupons};
use super::{Conn, Db, DbError, Refusal, refusal};
use crate::domain::{CouponId, DropId, UserId};

/// Rows read at each end of the table, from which some are compared with the key.
const SAMPLE: i64 = 100;

/// Number of rows compared, in order of issue. Some may have been edited manually; only if the key
/// yields none of their codes is it the wrong key.
const COMPARED: usize = 5;

/// The `since` of a key that was generated to replace a lost one. It still marks such a key after
/// retention has deleted the rows that would reveal the loss.
const NOT_ACCEPTED: DateTime<Utc> = NaiveDate::from_ymd_opt(9999, 12, 31)
    .unwrap()
    .and_time(NaiveTime::MIN)
    .and_utc();

/// Why a row that is written again would get a different code from the one its user was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeKeyFault {
    Lost,
    /// The key was generated to replace a lost one, and no operator has accepted it yet.
    Replaced,
    /// The key does not yield the codes of the rows that were issued first.
    Other,
}

impl Db {
    /// Returns the installation's key, which is read once per pool.
    pub async fn code_key(&self) -> Result<CodeKey, DbError> {
        let read = || self.run("key of the codes", async |conn| read_or_draw(conn).await);
        self.code_key.get_or_try_init(read).await.cloned()
    }

    /// Compares the stored key with rows. The cost does not depend on the size of the table.
    pub async fn check_code_key(&self) -> Result<Option<CodeKeyFault>, DbError> {
        self.run("compare the key of the codes", async |conn| {
            let Some((key, since)) = stored(conn).await? else {
                return Ok(has_rows(conn).await?.then_some(CodeKeyFault::Lost));
            };
            if since == NOT_ACCEPTED.naive_utc() {
                return Ok(Some(CodeKeyFault::Replaced));
            }
            let all = || issued_coupons::table.select(IssuedRow::as_select());
            let mut rows: Vec<IssuedRow> = all()
                .order((issued_coupons::drop_id, issued_coupons::slot))
                .limit(SAMPLE)
                .load(conn)
                .await?;
            let last = all()
                .order((issued_coupons::drop_id.desc(), issued_coupons::slot.desc()))
                .limit(SAMPLE);
            rows.extend(last.load(conn).await?);
            rows.retain(|row| {
                row.issued_at >= since
                    && secret_part_of(&row.code).is_some()
                    && !is_pseudonym(&row.user_id)
            });
            rows.sort_unstable_by_key(|row| (row.issued_at, row.drop_id, row.slot));
            rows.dedup_by_key(|row| (row.drop_id, row.slot));
            let first = &rows[..rows.len().min(COMPARED)];
            let is_other = first.len() > 1 && first.iter().all(|row| !makes_code_of(&key, row));
            Ok(is_other.then_some(CodeKeyFault::Other))
        })
        .await
    }
}

fn makes_code_of(key: &CodeKey, row: &IssuedRow) -> bool {
    let claim = Claim {
        coupon_id: CouponId(row.coupon_id),
        drop_id: DropId(row.drop_id),
        slot: row.slot,
        user_id: UserId::from_store(row.user_id.clone()),
        claimed_at: None,
        trace: None,
    };
    let secret = key.secret_part(&claim, row.claimed_at.and_utc());
    secret_part_of(&row.code) == Some(&*secret)
}

/// Reads the key, and the time since which rows have codes derived from it.
async fn stored(conn: &mut Conn) -> QueryResult<Option<(CodeKey, NaiveDateTime)>> {
    let columns = code_key::table.select((code_key::secret, code_key::since));
    let row: Option<(Vec<u8>, NaiveDateTime)> = columns.first(conn).await.optional()?;
    let Some((secret, since)) = row else {
        return Ok(None);
    };
    let key = CodeKey::new(&secret)
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))?;
    Ok(Some((key, since)))
}

async fn has_rows(conn: &mut Conn) -> QueryResult<bool> {
    let any: Option<i64> = issued_coupons::table
        .select(issued_coupons::drop_id)
        .first(conn)
        .await
        .optional()?;
    Ok(any.is_some())
}

/// Reads the key, or generates one, because new claims need codes even if an older key was lost.
async fn read_or_draw(conn: &mut Conn) -> QueryResult<CodeKey> {
    if let Some((key, _)) = stored(conn).await? {
        return Ok(key);
    }
    let mut since = DateTime::UNIX_EPOCH;
    if has_rows(conn).await? {
        since = NOT_ACCEPTED;
        tracing::error!(
            "the table code_key was empty although there are coupons, and a new key was drawn: a row that is written \
             again gets another code than its person was shown. Put the key back from a backup of MySQL, see \
             \"The key of the codes\" in OPERATIONS.md"
        );
    }
    draw(conn, since).await?;
    stored(conn)
        .await?
        .map(|(key, _)| key)
        .ok_or(diesel::result::Error::NotFound)
}

/// Generates a key. If two processes do this at the same time, both use the key that was stored
/// first.
async fn draw(conn: &mut Conn, since: DateTime<Utc>) -> QueryResult<()> {
    let drawn: [u8; 32] = rand::rng().random();
    let row = (
        code_key::id.eq(1),
        code_key::secret.eq(&drawn[..]),
        code_key::since.eq(since.naive_utc()),
    );
    match diesel::insert_into(code_key::table)
        .values(row)
        .execute(conn)
        .await
    {
        Err(error) if refusal(&error) != Some(Refusal::Duplicate) => Err(error),
        _ => Ok(()),
    }
}
