//! The table `told`: what was told about each problem, one row for each time that it was there; and
//! `repairs`: how many repairs passes made, for the mails about them and for the daily digest. Only
//! the evaluation and acknowledgements write `told`, under the row `notify.…`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;

use chrono::{DateTime, Utc};
use diesel::dsl::{DuplicatedKeys, count_star, min};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Unsigned};
use diesel_async::RunQueryDsl;
use firstcome_shared::columns::{At, Datetime};
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{Alert, AlertPage, ListedAlert};
use firstcome_shared::mysql::levels::{NotifyRow, clock};
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::{Conn, Db, DbResult};
use firstcome_shared::report::{AlertKind, AlertState, DropReport, Numbers};
use firstcome_shared::schema::{
    broken_promises, coupons, drops, issued_coupons, levels, outbox, reconcile_findings, repairs,
    told,
};
use firstcome_shared::subject::Subject;

/// What was told about a problem, from its begin to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = told, treat_none_as_default_value = false)]
pub struct ToldRow {
    /// 0 until it is stored.
    pub id: i64,
    /// `drop` or `campaign`.
    pub subject: String,
    /// The identity of the problem.
    pub name: String,
    /// The word of the kind that was told last, which a later version may have written.
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// One line for lists, which nothing compares. User ids in it are masked.
    pub summary: String,
    #[diesel(serialize_as = At)]
    pub began_at: DateTime<Utc>,
    /// Since when it is unexplained; `None` while it is explained.
    pub waits_from: Option<DateTime<Utc>>,
    /// The kind of what explains it.
    pub explained_by: Option<String>,
    /// Since when it is gone.
    pub gone_at: Option<DateTime<Utc>>,
    /// How often it came back.
    pub returns: u32,
    pub told_at: Option<DateTime<Utc>>,
    /// The number of mails about it.
    pub tells: u32,
    /// The cases that were told and are still there.
    pub told_number: u64,
    pub told_cases: Option<Vec<u8>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// It ended because no look can judge it any more.
    pub given_up: bool,
    pub acknowledged_at: Option<DateTime<Utc>>,
    pub acknowledged_by: Option<String>,
}

impl From<ToldRow> for Alert {
    fn from(row: ToldRow) -> Self {
        Self {
            kind: row.kind,
            coupon_id: row.coupon_id,
            drop_id: row.drop_id,
            state: match (row.ended_at, row.gone_at) {
                (Some(_), _) => AlertState::Resolved,
                (None, Some(_)) => AlertState::Quiet,
                (None, None) => AlertState::Firing,
            },
            summary: row.summary,
            first_seen_at: row.began_at,
            last_seen_at: row.gone_at,
            last_mailed_at: row.told_at,
            mails: row.tells,
            explained_by: row.explained_by,
            resolved_at: row.ended_at,
            given_up: row.given_up,
            acknowledged_at: row.acknowledged_at,
            acknowledged_by: row.acknowledged_by,
        }
    }
}

/// A promise that could not be kept and is unresolved.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = broken_promises)]
pub struct BrokenPromise {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    /// The user id in full.
    pub user_id: String,
    /// The user's slot, if known.
    pub slot: Option<i64>,
    /// Why the promise could not be kept.
    pub reason: String,
}

/// Reads the open alerts of a subject, and those that ended since `from`.
pub async fn told_since(
    conn: &mut Conn,
    subject: Subject,
    from: DateTime<Utc>,
) -> QueryResult<Vec<ToldRow>> {
    told::table
        .filter(told::subject.eq(subject.word()))
        .filter(
            told::open_name
                .is_not_null()
                .or(told::ended_at.ge(Some(from))),
        )
        .order(told::id)
        .select(ToldRow::as_select())
        .load(conn)
        .await
}

/// Writes an alert. Returns its id, which a new one (`id` 0) gets.
pub async fn write_told(conn: &mut Conn, row: ToldRow) -> QueryResult<i64> {
    let open_name = row.ended_at.is_none().then(|| row.open_name());
    if row.id != 0 {
        let changed = (
            (
                told::kind.eq(row.kind),
                told::summary.eq(row.summary),
                told::began_at.eq(At(row.began_at)),
                told::waits_from.eq(row.waits_from),
                told::explained_by.eq(row.explained_by),
                told::gone_at.eq(row.gone_at),
                told::returns.eq(row.returns),
            ),
            told::told_at.eq(row.told_at),
            told::tells.eq(row.tells),
            told::told_number.eq(row.told_number),
            told::told_cases.eq(row.told_cases),
            told::ended_at.eq(row.ended_at),
            told::given_up.eq(row.given_up),
            told::acknowledged_at.eq(row.acknowledged_at),
            told::acknowledged_by.eq(row.acknowledged_by),
            told::open_name.eq(open_name),
        );
        let update = diesel::update(told::table.find(row.id)).set(changed);
        update.execute(conn).await?;
        return Ok(row.id);
    }
    // AUTO_INCREMENT takes the place of an id of 0.
    let named = (row, told::open_name.eq(open_name));
    let insert = diesel::insert_into(told::table).values(named);
    insert.execute(conn).await?;
    let last_id = diesel::dsl::sql::<BigInt>("LAST_INSERT_ID()");
    diesel::select(last_id).get_result(conn).await
}

impl ToldRow {
    /// The name under which only one can be open.
    fn open_name(&self) -> String {
        format!("{}:{}", self.subject, self.name)
    }
}

/// Returns when the oldest mail was queued that has reached nobody yet.
pub async fn oldest_unsent(conn: &mut Conn) -> QueryResult<Option<DateTime<Utc>>> {
    let reached = diesel::alias!(outbox as reached);
    let batch = reached.field(outbox::batch);
    let has_reached = reached
        .filter(batch.eq(outbox::batch))
        .filter(reached.field(outbox::sent_at).is_not_null());
    outbox::table
        .filter(outbox::channel.eq("mail"))
        .filter(outbox::sent_at.is_null())
        .filter(outbox::given_up_at.is_null())
        .filter(diesel::dsl::not(diesel::dsl::exists(has_reached)))
        .order(outbox::id)
        .select(outbox::created_at)
        .first(conn)
        .await
        .optional()
}

/// Whether any of these drops belongs to a coupon with a waiting list.
pub async fn has_waiting_list(conn: &mut Conn, of: &[i64]) -> QueryResult<bool> {
    let with_list = drops::table
        .inner_join(coupons::table)
        .filter(drops::id.eq_any(of.to_vec()))
        .filter(coupons::waiting_list.gt(0_u32));
    let number: i64 = with_list.count().get_result(conn).await?;
    Ok(number > 0)
}

/// Returns when the passes that made these repairs first opened coupons that had been closed
/// because Redis lost data, or may have lost data. Returns `None` if they opened none.
pub async fn reopened_since(
    conn: &mut Conn,
    repairs: &[RepairsRow],
) -> QueryResult<Option<DateTime<Utc>>> {
    let runs: BTreeSet<&str> = repairs.iter().map(|row| row.run_id.as_str()).collect();
    if runs.is_empty() {
        return Ok(None);
    }
    reconcile_findings::table
        .filter(reconcile_findings::run_id.eq_any(runs))
        .filter(reconcile_findings::kind.eq("redis_lost"))
        .filter(reconcile_findings::action.eq("open"))
        .filter(reconcile_findings::result.eq("applied"))
        .select(min(reconcile_findings::created_at))
        .get_result(conn)
        .await
}

/// Broken promises that ended, and those of them whose users have a row.
#[derive(QueryableByName)]
struct MendedPromises {
    #[diesel(sql_type = BigInt)]
    number: i64,
    #[diesel(sql_type = BigInt)]
    kept: i64,
}

/// Counts the users whose broken promises in a drop ended since this time. Returns how many of them
/// have a row that counts for the drop, and how many do not: an operator informed them, or they
/// were revoked.
pub async fn mended(conn: &mut Conn, drop: DropId, since: DateTime<Utc>) -> QueryResult<[i64; 2]> {
    let mended: MendedPromises = sql_query(
        "SELECT COUNT(*) AS number, CAST(COALESCE(SUM(EXISTS (SELECT 1 FROM issued_coupons i \
             WHERE i.coupon_id = b.coupon_id AND i.user_id = b.user_id \
             AND (i.drop_id = b.drop_id OR c.once_per = 'coupon'))), 0) AS SIGNED) AS kept \
         FROM broken_promises b JOIN coupons c ON c.id = b.coupon_id \
         WHERE b.drop_id = ? AND b.mended_at >= ?",
    )
    .bind::<BigInt, _>(drop)
    .bind::<Datetime, _>(At(since))
    .get_result(conn)
    .await?;
    Ok([mended.kept, mended.number - mended.kept])
}

/// The repairs of one kind that a pass made in one drop.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = repairs)]
pub struct RepairsRow {
    pub run_id: String,
    /// 0 if no drop is concerned.
    pub drop_id: i64,
    pub kind: String,
    pub number: u32,
    #[diesel(serialize_as = At)]
    pub repaired_at: DateTime<Utc>,
    /// Whether a mail has named them, or nobody reads mails.
    pub told: bool,
}

/// Stores repairs. A run that was stored before keeps its rows.
pub async fn keep_repairs(conn: &mut Conn, rows: Vec<RepairsRow>) -> QueryResult<()> {
    diesel::insert_into(repairs::table)
        .values(rows)
        .on_conflict(DuplicatedKeys)
        .do_nothing()
        .execute(conn)
        .await
        .map(|_| ())
}

/// Reads the repairs of a subject that no mail has named, or that were made since this time, oldest
/// first.
pub async fn repairs_untold_or_since(
    conn: &mut Conn,
    subject: Subject,
    since: DateTime<Utc>,
) -> QueryResult<Vec<RepairsRow>> {
    let is_recent = repairs::told
        .eq(true)
        .and(repairs::repaired_at.ge(At(since)));
    repairs::table
        .filter(repairs::told.eq(false).or(is_recent))
        .filter(repairs_of(subject))
        .order((repairs::repaired_at, repairs::run_id, repairs::kind))
        .select(RepairsRow::as_select())
        .load(conn)
        .await
}

/// The drops of attached campaigns have negative ids.
#[diesel::dsl::auto_type(no_type_alias)]
fn repairs_of(subject: Subject) -> _ {
    let is_of_drops: bool = subject == Subject::Drop;
    repairs::drop_id.ge(0_i64).eq(is_of_drops)
}

/// Notes that a mail names all repairs of a subject. The caller holds the row `notify.…`, and has
/// read them under it.
pub async fn note_repairs_told(conn: &mut Conn, subject: Subject) -> QueryResult<()> {
    let untold = repairs::table
        .filter(repairs::told.eq(false))
        .filter(repairs_of(subject));
    diesel::update(untold)
        .set(repairs::told.eq(true))
        .execute(conn)
        .await
        .map(|_| ())
}

/// The unresolved broken promises of a drop.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct OpenPromises {
    #[diesel(sql_type = BigInt)]
    pub coupon: CouponId,
    #[diesel(sql_type = BigInt, column_name = drop_id)]
    pub drop: DropId,
    #[diesel(sql_type = Unsigned<BigInt>)]
    pub number: u64,
    /// When the last of them was broken.
    #[diesel(sql_type = Datetime)]
    pub last_at: DateTime<Utc>,
}

/// Counts the unresolved broken promises by drop.
pub async fn open_promises(conn: &mut Conn) -> QueryResult<Vec<OpenPromises>> {
    let open = sql_query(
        "SELECT MIN(coupon_id) AS coupon, drop_id, COUNT(*) AS number, MAX(created_at) AS last_at \
         FROM broken_promises WHERE mended_at IS NULL GROUP BY drop_id ORDER BY drop_id",
    );
    open.load(conn).await
}

/// Reads the unresolved broken promises of these drops.
pub async fn broken_promises(conn: &mut Conn, of: &[i64]) -> QueryResult<Vec<BrokenPromise>> {
    broken_promises::table
        .filter(broken_promises::drop_id.eq_any(of))
        .filter(broken_promises::mended_at.is_null())
        .order((broken_promises::drop_id, broken_promises::user_id))
        .select(BrokenPromise::as_select())
        .load(conn)
        .await
}

/// Reports on these drops from the tables, as a mail needs them. A drop is exact if nothing is
/// `left` of it.
pub async fn drop_reports<S: BuildHasher>(
    conn: &mut Conn,
    drops: Vec<DropId>,
    left: &HashSet<DropId, S>,
) -> QueryResult<Vec<DropReport>> {
    let own: Vec<i64> = drops.iter().map(|id| id.0).filter(|id| *id > 0).collect();
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let counted: Vec<(DropId, i64)> = issued_coupons::table
        .filter(issued_coupons::drop_id.eq_any(&own))
        .group_by(issued_coupons::drop_id)
        .select((issued_coupons::drop_id, count_star()))
        .load(conn)
        .await?;
    let rows_of_drops: HashMap<DropId, i64> = counted.into_iter().collect();
    let rows: Vec<(Drop, String)> = drops::table
        .inner_join(coupons::table)
        .filter(drops::id.eq_any(&own))
        .select((Drop::as_select(), coupons::name))
        .load(conn)
        .await?;
    let reports = rows.into_iter().map(|(drop, coupon_name)| {
        let rows = rows_of_drops
            .get(&drop.id)
            .map_or(0, |rows| rows.cast_unsigned());
        DropReport {
            coupon_name,
            exact: !left.contains(&drop.id),
            sealed: drop.sealed_at.is_some(),
            after: Numbers {
                rows,
                users: rows,
                ..Numbers::default()
            },
            ..DropReport::begun(drop.coupon_id, drop.id, drop.quantity)
        }
    });
    Ok(reports.collect())
}

/// Lists alerts, newest first: at most `limit`, with an id below `before`, in the given state.
/// Those that nobody was told of and that are over are left out, and so are repairs, which need
/// nobody.
pub async fn list(
    db: &Db,
    state: Option<AlertState>,
    before: Option<i64>,
    limit: u32,
) -> DbResult<AlertPage> {
    let before = before.unwrap_or(i64::MAX);
    let mut query = told::table
        .filter(told::id.lt(before))
        .filter(told::kind.ne(AlertKind::Repaired.word()))
        .order(told::id.desc())
        .limit(i64::from(limit) + 1)
        .select(ToldRow::as_select())
        .into_boxed();
    query = match state {
        None => query.filter(told::ended_at.is_null().or(told::told_at.is_not_null())),
        Some(AlertState::Firing) => {
            query.filter(told::ended_at.is_null().and(told::gone_at.is_null()))
        }
        Some(AlertState::Quiet) => {
            query.filter(told::ended_at.is_null().and(told::gone_at.is_not_null()))
        }
        Some(AlertState::Resolved) => {
            query.filter((told::ended_at.is_not_null()).and(told::told_at.is_not_null()))
        }
    };
    let rows = db.rows("list alerts", query).await?;
    let names = coupon_names(db, &rows).await?;
    let listed = rows.into_iter().map(|row| ListedAlert {
        id: row.id,
        coupon_name: row.coupon_id.and_then(|id| names.get(&id.0).cloned()),
        alert: row.into(),
    });
    let mut alerts: Vec<_> = listed.collect();
    let has_more = alerts.len() > limit as usize;
    alerts.truncate(limit as usize);
    let next_before = alerts.last().filter(|_| has_more).map(|alert| alert.id);
    Ok(AlertPage {
        alerts,
        next_before,
    })
}

/// Reads the names of the coupons of these alerts. Those of campaigns stand in a file, and their
/// database has no coupons.
async fn coupon_names(db: &Db, rows: &[ToldRow]) -> DbResult<HashMap<i64, String>> {
    let own = rows
        .iter()
        .filter(|row| row.subject == Subject::Drop.word());
    let ids: Vec<i64> = own.filter_map(|row| Some(row.coupon_id?.0)).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let names = coupons::table
        .filter(coupons::id.eq_any(ids))
        .select((coupons::id, coupons::name));
    let names: Vec<(i64, String)> = db.rows("names of coupons", names).await?;
    Ok(names.into_iter().collect())
}

pub async fn find(db: &Db, id: i64) -> DbResult<Option<ListedAlert>> {
    let newest = list(db, None, id.checked_add(1), 1).await?;
    Ok(newest.alerts.into_iter().find(|alert| alert.id == id))
}

/// The states of `firstcome_alerts`.
pub const STATES: [&str; 4] = ["firing", "quiet", "explained", "acknowledged"];

/// Returns the kind and the state of each open alert that was mailed.
pub async fn alerts_by_kind(db: &Db) -> DbResult<Vec<(String, &'static str)>> {
    let open = told::table
        .filter(told::open_name.is_not_null())
        .filter(told::told_at.is_not_null())
        .filter(told::kind.ne(AlertKind::Repaired.word()))
        .select((
            told::kind,
            told::gone_at.is_not_null(),
            told::explained_by.is_not_null(),
            told::acknowledged_at.is_not_null(),
        ));
    let rows: Vec<(String, bool, bool, bool)> = db.rows("count alerts", open).await?;
    let state = |(kind, is_gone, is_explained, is_acknowledged)| {
        let [firing, quiet, explained, acknowledged] = STATES;
        let state = match (is_gone, is_explained, is_acknowledged) {
            (true, _, _) => quiet,
            (_, true, _) => explained,
            (_, _, true) => acknowledged,
            (false, false, false) => firing,
        };
        (kind, state)
    };
    Ok(rows.into_iter().map(state).collect())
}

/// Counts what is wrong by kind, as looks saw it last.
pub async fn drift_by_kind(db: &Db) -> DbResult<Vec<(String, i64)>> {
    let number = diesel::dsl::sql::<BigInt>("CAST(SUM(number) AS SIGNED)");
    let levels = levels::table
        .filter(levels::given_up.eq(false))
        .group_by(levels::kind)
        .select((levels::kind, number));
    db.rows("count what is wrong", levels).await
}

/// Acknowledges an alert that is open, so that it is not mailed again until it changes or is over.
/// Changes nothing if it is not open. Returns the alert afterwards, or `None` if there is no such
/// alert.
pub async fn acknowledge(
    db: &Db,
    id: i64,
    by: String,
    operator: Operator,
) -> DbResult<Option<ListedAlert>> {
    db.transaction("acknowledge an alert", async move |conn| {
        let open = told::table.find(id).filter(told::ended_at.is_null());
        let row = open.select(told::subject).first::<String>(conn).await;
        let Some(word) = row.optional()? else {
            return Ok(());
        };
        let subject = Subject::from_word(&word);
        let notify = NotifyRow::lock(conn, subject).await?;
        let row = open.select(ToldRow::as_select()).first(conn).await;
        let Some(row) = row.optional()? else {
            return Ok(());
        };
        let now = clock(conn).await?;
        let is_untold = row.told_at.is_none();
        let mut taken = ToldRow {
            acknowledged_at: Some(now),
            acknowledged_by: Some(by.clone()),
            ..row
        };
        if is_untold {
            // Who has seen it on the page needs no mail about it.
            taken.told_at = Some(now);
            let level: Option<(u64, Option<Vec<u8>>)> = levels::table
                .filter(levels::name.eq(&taken.name))
                .select((levels::number, levels::cases))
                .first(conn)
                .await
                .optional()?;
            (taken.told_number, taken.told_cases) = level.unwrap_or((1, None));
        }
        write_told(conn, taken).await?;
        notify.raise(conn, subject).await?;
        let detail = serde_json::json!({"alert_id": id, "by": by});
        let act = OperatorAct::new("acknowledge", None, None, detail);
        operator.did(conn, act).await
    })
    .await?;
    find(db, id).await
}
