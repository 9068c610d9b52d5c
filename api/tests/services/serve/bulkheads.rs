//! Bulkheads: lookups that wait for MySQL take no connections from claims and operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use firstcome_stack::{FaultProxy, KafkaServer, ProxyFault};
use reqwest::{Method, RequestBuilder};
use tokio::task::JoinSet;

use super::world::{InProcessApi, ServeWorld, open, stack, until};

async fn behind_mysql(world: &ServeWorld) -> (ServeWorld, FaultProxy) {
    let proxy = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&proxy, &world.name);
    (world.with("database-url", url), proxy)
}

/// Starts clients that repeat a request until they are dropped. Returns once half of them have had
/// a response.
async fn crowd(people: usize, request: impl Fn(usize) -> RequestBuilder) -> JoinSet<()> {
    let answers = Arc::new(AtomicUsize::new(0));
    let mut crowd = JoinSet::new();
    for number in 0..people {
        let request = request(number);
        let answers = Arc::clone(&answers);
        crowd.spawn(async move {
            loop {
                let _ = request.try_clone().unwrap().send().await;
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("half of the clients had an answer", async || {
        answers.load(Ordering::Relaxed) >= people / 2
    })
    .await;
    crowd
}

fn poll(api: &InProcessApi, id: i64) -> impl Fn(usize) -> RequestBuilder {
    let client = api.client.clone();
    let url = format!("{}/v1/coupons/{id}/claims/me", api.base);
    move |number| {
        client
            .request(Method::GET, &url)
            .header("x-user-id", format!("p-{number}"))
    }
}

#[tokio::test]
async fn lookups_that_wait_for_mysql_delay_neither_fallback_nor_operators() {
    let world = ServeWorld::new().await;
    let kafka = KafkaServer::breakable().await.unwrap();
    let (proxied, mysql) = behind_mysql(&world).await;
    let own = proxied
        .with("kafka-brokers", kafka.server.bootstrap())
        .with("publish-deadline-ms", 300)
        .with("database-pool-size", 4)
        // This is long enough for a busy machine, but shorter than a claim would wait behind all
        // polls.
        .with("backup-deadline-ms", 10_000)
        .with("store-timeout-ms", 10_000)
        .with("database-timeout-ms", 10_000);
    own.create_topic().await;
    let api = own.api().await;
    let (id, _) = api.make(open(1_000)).await;
    kafka.proxy.set(ProxyFault::Cut).await.unwrap();
    mysql
        .set(ProxyFault::Delay(Duration::from_millis(120)))
        .await
        .unwrap();

    let mut polls = crowd(50, poll(&api, id)).await;
    for number in 0..10 {
        let table = "u-$n claims $id => 202 accepted queued=false";
        api.play(&[("$n", &number), ("$id", &id)], table).await;
    }
    let table = r#"
        ops PATCH $id {"paused": true} => 200 paused=true
        ops POST $id/people/u-0/revoke {"reason": "fraud", "by": "Ann"} => 200 revoked"#;
    api.play(&[("$id", &id)], table).await;
    polls.shutdown().await;
}
