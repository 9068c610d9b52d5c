//! MySQL fails over: the primary's connections hang, and the same address leads to its replica.

use firstcome_stack::MysqlPair;

use super::waves::{Waves, impatient};
use crate::prelude::*;

#[tokio::test]
#[ignore = "release"]
async fn a_semi_synchronous_failover_during_a_rush_breaks_no_promise() {
    let pair = MysqlPair::start().await.unwrap();
    let url = pair.primary.database_url_via(&pair.address, "");
    let stores = WorldStores::shared().await.with_mysql_at(&url);
    let waves = Waves::begin(impatient(stores, "semi-sync").await).await;
    let survived = waves.survives(async |waves| {
        // The failover happens in the middle of a batch: its rows are inserted, and the commit
        // hangs.
        let stall = [("FIRSTCOME_STALL_AT", "rows_inserted:1:1500")];
        waves.consumer_with(&stall).await;
        waves
            .next_while(20, async |waves| {
                waves.consumer_says("stall point").await;
                pair.lose_primary().await.unwrap();
            })
            .await;
        waves.consumer_says("could not be written").await;
        let all = [("accepted".into(), 20)].into();
        assert_eq!(waves.wave().await, all, "claims do not wait for MySQL");
        pair.promote().await.unwrap();
        pair.lead_to(&pair.replica).await.unwrap();
        // No process is restarted.
        waves.issued(60).await;
        let rename = json!({"name": "renamed"});
        let changes = async || waves.api.patch(waves.coupon.id, &rename).await.status == 200;
        eventually("operators' changes use the new primary", LIMIT, changes).await;
        let left = waves.world.sql.query("SELECT * FROM failed_claims").await;
        assert!(left.is_empty(), "{left:?}");
    });
    survived.await;
}
