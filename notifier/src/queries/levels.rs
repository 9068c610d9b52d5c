//! The table `levels`: what is wrong as looks see it, one row for each condition. Only looks write
//! it, and the transaction that seals a drop, under the row `notify.…`.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::columns::At;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::{Conn, ROWS_AT_ONCE};
use firstcome_shared::schema::levels;
use firstcome_shared::subject::Subject;

/// Something that is wrong, as looks see it.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = levels, treat_none_as_default_value = false)]
pub struct LevelRow {
    /// Its identity. Nothing parses it.
    pub name: String,
    /// `drop` or `campaign`.
    pub subject: String,
    /// The word of its kind, which a later version may have written.
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// The number of cases.
    pub number: u64,
    /// 8 bytes for each case, or `None` if they are only counted.
    pub cases: Option<Vec<u8>>,
    /// Facts that deciding needs, as JSON.
    pub facts: String,
    /// The run that stores its findings.
    pub run_id: String,
    /// The first and the last look that saw it.
    #[diesel(serialize_as = At)]
    pub first_at: DateTime<Utc>,
    #[diesel(serialize_as = At)]
    pub last_at: DateTime<Utc>,
    /// It is not repaired, and no look can judge it any more.
    pub given_up: bool,
}

/// Whether anything is wrong.
pub async fn any(conn: &mut Conn, subject: Subject) -> QueryResult<bool> {
    let of = levels::table.filter(levels::subject.eq(subject.word()));
    select(exists(of)).get_result(conn).await
}

pub async fn all(conn: &mut Conn, subject: Subject) -> QueryResult<Vec<LevelRow>> {
    levels::table
        .filter(levels::subject.eq(subject.word()))
        .order(levels::name)
        .select(LevelRow::as_select())
        .load(conn)
        .await
}

pub async fn put(conn: &mut Conn, rows: Vec<LevelRow>) -> QueryResult<()> {
    for some in rows.chunks(ROWS_AT_ONCE) {
        diesel::replace_into(levels::table)
            .values(some.to_vec())
            .execute(conn)
            .await?;
    }
    Ok(())
}

pub async fn delete(conn: &mut Conn, names: &[String]) -> QueryResult<()> {
    for some in names.chunks(ROWS_AT_ONCE) {
        let gone = levels::table.filter(levels::name.eq_any(some.to_vec()));
        diesel::delete(gone).execute(conn).await?;
    }
    Ok(())
}
