//! A daemon that is killed at each step of a repair, and the one that is started after it.

use std::time::Duration;

use firstcome_harness::{LIMIT, eventually};

use super::{OFTEN, Shop};

#[tokio::test]
async fn daemon_that_is_killed_at_any_step_of_a_repair_is_continued_by_the_next() {
    let points = "run_begun repair_begun:2 rows_inserted rows_inserted:3 people_rebuilt run_done \
        run_recorded";
    for point in points.split_whitespace() {
        let shop = Shop::new("attach-killed").await;
        let file = shop.file(&shop.stores().await, "mode = 'repair'");
        shop.sell(0..30).await;
        {
            // It trusts the campaign after a clean look.
            let daemon = shop.daemon(&file, &OFTEN);
            let clean = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'clean'";
            eventually("a clean pass", LIMIT, async || {
                shop.world.sql.number(clean).await > 0
            })
            .await;
            daemon.stop().await;
        }
        // Three lost messages, two lost members, and a counter that lost a claim.
        for user in 30..33 {
            shop.add_member(user).await;
        }
        let () = shop
            .redis(&["SREM", &shop.key("users"), "user-1", "user-2"])
            .await;
        let () = shop.redis(&["DECR", &shop.key("count")]).await;
        let killed = shop.daemon(&file, &[OFTEN[0], ("FIRSTCOME_CRASH_AT", point)]);
        killed.ended(Duration::from_secs(30)).await;
        assert!(
            killed.log().contains("crash point"),
            "{point}: {}",
            killed.log()
        );

        let _next = shop.daemon(&file, &OFTEN);
        let users = shop.key("users");
        let count = shop.key("count");
        eventually(point, LIMIT, async || {
            let members: i64 = shop.redis(&["SCARD", &users]).await;
            let counted: i64 = shop.redis(&["GET", &count]).await;
            [shop.rows().await, members, counted] == [33; 3] && shop.firing().await.is_empty()
        })
        .await;
    }
}
