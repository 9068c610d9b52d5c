//! Broken promises.

use std::collections::HashSet;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::columns::now;
use firstcome_shared::domain::{DropId, NamedDrop, UserId};
use firstcome_shared::model::OwedUser;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::{Conn, Db, DbResult};
use firstcome_shared::schema::broken_promises;
use serde_json::json;

/// Marks broken promises to these users as resolved. Returns how many.
async fn mend(conn: &mut Conn, drop: DropId, users: &[UserId]) -> QueryResult<usize> {
    let open = broken_promises::table
        .filter(broken_promises::drop_id.eq(drop))
        .filter(broken_promises::user_id.eq_any(users))
        .filter(broken_promises::mended_at.is_null());
    diesel::update(open)
        .set(broken_promises::mended_at.eq(now().nullable()))
        .execute(conn)
        .await
}

/// Marks these users' broken promises as resolved, because the users now have rows.
pub(crate) async fn mend_broken_promises(db: &Db, drop: DropId, people: &[UserId]) -> DbResult<()> {
    for some in people.chunks(PROMISES_AT_ONCE) {
        let some = some.to_vec();
        db.run("mend broken promises", async move |conn| {
            mend(conn, drop, &some).await
        })
        .await?;
    }
    Ok(())
}

/// Marks a drop's broken promise to a user as resolved, because an operator confirms that the
/// user was informed. Returns 1, or 0 if there is no unresolved one. The user stays at the head
/// of the drop's waiting list: if passes removed everybody there without an open promise, they
/// would also remove users whose promise MySQL has lost in a failover.
pub(crate) async fn give_up_promises(
    db: &Db,
    place: NamedDrop,
    user: &UserId,
    by: Operator,
) -> DbResult<usize> {
    let NamedDrop { coupon, drop } = place;
    let user = user.clone();
    db.transaction("give up broken promises", async move |conn| {
        let given_up = mend(conn, drop, std::slice::from_ref(&user)).await?;
        if given_up > 0 {
            let detail = json!({"user_id": user, "promises": given_up});
            let act = OperatorAct::new("give_up_promise", Some(coupon), Some(drop), detail);
            by.did(conn, act).await?;
        }
        Ok(given_up)
    })
    .await
}

/// Broken promises changed per statement.
const PROMISES_AT_ONCE: usize = 1_000;

/// Reads the drops with unresolved broken promises.
pub(crate) async fn drops_with_broken_promises(db: &Db) -> DbResult<HashSet<DropId>> {
    let drops = broken_promises::table
        .filter(broken_promises::mended_at.is_null())
        .select(broken_promises::drop_id)
        .distinct();
    let drops = db.rows("drops with broken promises", drops).await?;
    Ok(drops.into_iter().collect())
}

/// Reads a page of a drop's unresolved broken promises: users with ids above `after`, in order
/// of id.
pub(crate) async fn open_promises(db: &Db, drop: DropId, after: String) -> DbResult<Vec<OwedUser>> {
    let page = broken_promises::table
        .filter(broken_promises::mended_at.is_null())
        .filter(broken_promises::drop_id.eq(drop))
        .filter(broken_promises::user_id.gt(after))
        .order(broken_promises::user_id)
        .limit(1_000)
        .select(OwedUser::as_select());
    db.rows("read broken promises", page).await
}
