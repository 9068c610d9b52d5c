//! A life of Redis in which another release, with another admission script, has opened admission.
//! (`cargo xtask upgrade-test` uses a real one.)

use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{Fixture, LIMIT, WorldStores, eventually};

#[tokio::test]
async fn a_life_opened_by_another_release_is_joined_if_it_has_its_witness() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(WorldStores::shared().await.with_redis(&redis), "witness").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, _) = fixture.held("Witnessed", 20, 5).await;
    let life = async || {
        world
            .redis
            .command::<String>(&["GET", &world.redis.own("epoch")])
            .await
    };
    let before = life().await;
    let (epoch, rest) = before.split_once(' ').unwrap();
    let promotion = rest.split([':', ' ']).nth(1).unwrap();
    world.redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(
        not_ready(&fixture).await,
        "admission is closed until the reconciler has verified Redis"
    );
    // All releases share this text: if it changes, they take each other's lives for lost.
    let prefix = world.setting("REDIS_KEY_PREFIX");
    let witness =
        format!("-- witness of {epoch} from {promotion} of {prefix} in database 0\nreturn 1");
    world
        .redis
        .command::<String>(&["SCRIPT", "LOAD", &witness])
        .await;
    let why = "admission is open to another release only, which has another script: start a reconciler of this release";
    eventually("the API says why", LIMIT, async || {
        not_ready(&fixture).await == why
    })
    .await;
    assert!(api.claim(coupon.id, "u-6").await.is("unavailable"));

    let daemon = world.daemon().await;
    let opens = async |user| {
        let promised = async || api.claim(coupon.id, user).await.promised().is_some();
        eventually("admission is open", LIMIT, promised).await;
    };
    opens("u-6").await;
    assert_eq!(life().await, before, "nothing was lost");
    let found = world
        .sql
        .query("SELECT kind, detail FROM reconcile_findings")
        .await;
    assert_eq!(found, Vec::<Vec<String>>::new());
    world.redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
    opens("u-7").await;
    assert_ne!(life().await, before, "it may have been lost");
    assert_eq!(daemon.process.stop().await, 0);
}

/// The reason why the API is not ready.
async fn not_ready(fixture: &Fixture) -> String {
    let reply = fixture.api.http().get("/readyz").await;
    reply.body["checks"]["redis"]
        .as_str()
        .unwrap_or(&reply.text)
        .to_owned()
}
