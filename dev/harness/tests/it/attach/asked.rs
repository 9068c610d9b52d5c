//! Passes that an operator requests over HTTP while another one runs.

use std::path::Path;

use firstcome_harness::{HttpReply, Process};

use super::Shop;
use crate::prelude::*;

/// Starts a daemon without a scheduled pass, and waits until its first pass has ended.
async fn started(shop: &Shop, file: &Path) -> (Process, ReconcilerClient) {
    let daemon = shop.daemon(file, &[]);
    let base = format!("http://{}", daemon.line("listening on http://").await);
    let runs = "SELECT COUNT(*) FROM reconcile_runs WHERE finished_at IS NOT NULL";
    eventually("the first pass ends", LIMIT, async || {
        shop.world.sql.number(runs).await == 1
    })
    .await;
    (daemon, ReconcilerClient::new(&base))
}

/// Returns the path of the run in the answer to a request for a pass.
fn path_of(begun: &HttpReply) -> String {
    format!("/v1/runs/{}", begun.body["run_id"].as_str().unwrap())
}

#[tokio::test]
async fn a_pass_requested_during_another_is_queued_and_a_third_is_refused() {
    let shop = Shop::new("attach-queued").await;
    let file = shop.file(&shop.stores().await, "");
    shop.sell(0..10).await;
    let (_daemon, client) = started(&shop, &file).await;
    // This lock on their table makes the next pass wait.
    let mut theirs = HeldTransaction::begin(&shop.sql).await;
    theirs.run("LOCK TABLES coupon WRITE").await;
    let first = client.ask(&json!({"wait": false})).await;
    assert_eq!(first.status, 202, "{first:?}");
    let first = path_of(&first);
    // The start-up pass may still count as running for a moment.
    eventually("the first pass begins", LIMIT, async || {
        client.get(&first).await.status == 200
    })
    .await;
    let second = client.ask(&json!({"wait": false, "dry_run": true})).await;
    assert_eq!(second.status, 202, "{second:?}");
    assert_eq!(second.body["queued"], true, "{second:?}");
    let second = path_of(&second);
    let early = client.get(&second).await;
    assert_eq!(early.status, 503, "{early:?}");
    let third = client.ask(&json!({"wait": false})).await;
    assert_eq!(third.status, 409, "{third:?}");
    theirs.run("UNLOCK TABLES").await;
    eventually("the queued pass ends", LIMIT, async || {
        let run = client.get(&second).await;
        run.status == 200 && run.body["finished_at"].is_string() && run.body["dry_run"] == true
    })
    .await;
    let first = client.get(&first).await;
    assert_eq!(first.body["status"], "clean", "{first:?}");
}
