//! Claims and repairs, with TLS and logins on Redis, MySQL and Kafka at once.

use firstcome_harness::assert_sold_out;
use firstcome_stack::{PASSWORD, USER, kafka_login};

use crate::prelude::*;
use crate::tls::{servers, world};

/// This is a single test, because its parts share a world.
#[tokio::test]
async fn claims_and_repairs_work_over_tls_with_logins() {
    let fixture = Fixture::of(world("tls").await).await;
    rush_is_exact(&fixture).await;
    lost_drop_is_repaired(&fixture).await;
}

async fn rush_is_exact(fixture: &Fixture) {
    let coupon = fixture.api.open_coupon(100).await;
    let answers = rush_until_answered(&[&fixture.api], coupon.id, &people(300), 100).await;
    assert_sold_out(&answers, 100);
    all_issued(&fixture.world, coupon.drop, 100).await;
    assert_exact(&fixture.world, &coupon, 100).await;
    clean_pass(&fixture.world, &coupon).await;
}

/// This repair reads Kafka, closes the coupon in Redis and in MySQL, writes the drop to Redis, and
/// opens the coupon.
async fn lost_drop_is_repaired(fixture: &Fixture) {
    let (coupon, _) = fixture.held("Lost", 20, 12).await;
    inject(&fixture.world, &coupon, Drift::RedisLost, 1).await;
    pass_ends(&fixture.world, &[], REPAIRED).await;
    assert_settled(&fixture.world, &coupon, 20, 12).await;
    let late = fixture.api.until_answered(coupon.id, "u-late").await;
    assert_eq!(late.promised(), Some((coupon.drop, 13)));
}

#[tokio::test]
async fn kafka_accepts_each_login_and_a_client_certificate() {
    let world = world("tls-kafka").await;
    let servers = servers().await;
    let [by_login, by_certificate] = [servers.kafka_by_login(), servers.kafka_by_certificate()];
    let token = "security.protocol=SASL_SSL; sasl.mechanism=OAUTHBEARER; \
        enable.sasl.oauthbearer.unsecure.jwt=true; sasl.oauthbearer.config=principal=kafka";
    for (brokers, properties, password) in [
        (&by_login, &*kafka_login("SCRAM-SHA-256", USER), PASSWORD),
        (&by_login, &*kafka_login("SCRAM-SHA-512", USER), PASSWORD),
        (&by_login, &*kafka_login("PLAIN", USER), PASSWORD),
        (&by_login, token, ""),
        (&by_certificate, "security.protocol=SSL", ""),
    ] {
        let env = [
            ("KAFKA_BROKERS", brokers.as_str()),
            ("KAFKA_PROPERTIES", properties),
            ("KAFKA_SASL_PASSWORD", password),
        ];
        let migrate = world.start("firstcome-api", &["migrate"], &env);
        let code = migrate.ended(LIMIT).await;
        assert_eq!(code, 0, "{properties}: {}", migrate.log());
    }
}
