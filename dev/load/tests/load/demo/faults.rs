//! The demo's faults and proof on a real MySQL with the product's tables.

use std::collections::HashMap;

use firstcome_load::answer::PromisedSlot;
use firstcome_load::local::faults::{refuse_no_more, refuse_some_rows};
use firstcome_load::local::proof::Proof;
use firstcome_shared::mysql::{DbSettings, migrations};
use firstcome_stack::{MysqlOptions, MysqlServer, Server};

const INSERT: &str =
    "INSERT INTO firstcome.issued_coupons (drop_id, slot, coupon_id, user_id, issued_by) VALUES";

async fn mysql_with_a_coupon_of(quantity: u32) -> MysqlServer {
    let mysql: MysqlServer = Server::start(MysqlOptions::default()).await.unwrap();
    let url = mysql.database_url("firstcome").into();
    migrations::migrate(&DbSettings {
        url,
        pool_size: 1,
        limit: std::time::Duration::from_secs(30),
    })
    .await
    .unwrap();
    for sql in [
        format!(
            "INSERT INTO firstcome.coupons (id, name, quantity, once_per) VALUES (1, 'c', {quantity}, 'coupon')"
        ),
        format!(
            "INSERT INTO firstcome.drops (id, coupon_id, opens_at, quantity) VALUES (1, 1, NOW(3), {quantity})"
        ),
    ] {
        mysql.query(&sql).await.unwrap();
    }
    mysql
}

#[tokio::test]
async fn only_the_consumer_is_refused_every_seventh_slot_and_the_proof_notices() {
    let mysql = mysql_with_a_coupon_of(8).await;
    refuse_some_rows(&mysql).await.unwrap();
    mysql
        .query(&format!("{INSERT} (1, 6, 1, 'f', 'consumer')"))
        .await
        .unwrap();
    let refused = mysql
        .query(&format!("{INSERT} (1, 7, 1, 'g', 'consumer')"))
        .await
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("firstcome: refused by the demo"),
        "{refused:#}"
    );

    let promises = HashMap::from(
        [("f", 6), ("g", 7)]
            .map(|(user, slot)| (user.to_owned(), PromisedSlot { drop_id: 1, slot })),
    );
    let proof = Proof::read(&mysql, 1, 2, &promises).await.unwrap();
    assert_eq!(proof.promised_without_row.iter().collect::<Vec<_>>(), ["g"]);

    mysql
        .query(&format!("{INSERT} (1, 7, 1, 'g', 'reconciler')"))
        .await
        .unwrap();
    let proof = Proof::read(&mysql, 1, 8, &promises).await.unwrap();
    assert!(proof.promised_without_row.is_empty() && !proof.exact());
    assert_eq!(
        (proof.rows, proof.by_consumer, proof.by_reconciler),
        (2, 1, 1)
    );

    refuse_no_more(&mysql).await.unwrap();
    mysql
        .query(&format!("{INSERT} (1, 8, 1, 'h', 'consumer')"))
        .await
        .unwrap();
    let proof = Proof::read(&mysql, 1, 8, &promises).await.unwrap();
    assert_eq!(
        (proof.rows, proof.row_without_yes, proof.refused_in_all()),
        (3, 1, 0)
    );
}
