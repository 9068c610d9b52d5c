//! Events for programs, sent by the real daemons.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use firstcome_reconciler::report::Status;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, eventually};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::drift::support::injector;

/// Accepts every request and stores its head and body.
#[derive(Clone, Default)]
pub(crate) struct WebhookReceiver {
    posted: Arc<Mutex<Vec<(String, Value)>>>,
    is_gone: Arc<AtomicBool>,
}

impl WebhookReceiver {
    pub(crate) async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let all = receiver.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let (head, body) = loop {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let text = String::from_utf8_lossy(&request);
                        if let Some((head, body)) = text.split_once("\r\n\r\n")
                            && let Ok(json) = serde_json::from_str(body)
                        {
                            break (head.to_lowercase(), json);
                        }
                    };
                    let status = if all.is_gone.load(Ordering::Relaxed) {
                        "410 Gone"
                    } else {
                        "204 No Content"
                    };
                    all.posted.lock().push((head, body));
                    let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        (receiver, url)
    }

    /// Whether it answers 410 from now on.
    pub(crate) fn is_gone(&self, is_gone: bool) {
        self.is_gone.store(is_gone, Ordering::Relaxed);
    }

    /// The requests posted to this path.
    pub(crate) fn posted(&self, path: &str) -> Vec<(String, Value)> {
        let is_there = |(head, _): &&(String, Value)| head.starts_with(&format!("post {path} "));
        self.posted
            .lock()
            .iter()
            .filter(is_there)
            .cloned()
            .collect()
    }

    fn count(&self, kind: &str) -> usize {
        self.posted("/hook")
            .iter()
            .filter(|(_, body)| body["type"] == kind)
            .count()
    }
}

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn two_daemons_post_sold_out_and_drift_events_once() {
    let fixture = Fixture::new("hooks").await;
    let world = &fixture.world;
    let (receiver, url) = WebhookReceiver::start().await;
    world.set("WEBHOOK_URLS", &format!("{url}/hook"));
    world.set("WEBHOOK_SECRET", SECRET);
    let daemons = [world.daemon().await, world.daemon().await];
    let (coupon, _) = fixture.held("Twenty", 20, 20).await;
    for daemon in &daemons {
        daemon.reconcile(&json!({})).await;
    }
    eventually("sold out", LIMIT, async || {
        receiver.count("drop.sold_out") > 0
    })
    .await;
    let mut drift = injector(world, &coupon).await;
    drift.make(Drift::Unissued, 1).await.unwrap();
    assert_eq!(
        daemons[0].reconcile(&json!({})).await.status,
        Status::Repaired
    );
    drift.make(Drift::FailedUnrepairable, 1).await.unwrap();
    for daemon in &daemons {
        assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Drift);
    }
    let firing = async |shown: &str| {
        for daemon in &daemons {
            let line = format!("firstcome_alerts{{kind=\"failed_claim\"}} {shown}");
            eventually("both show what fires", LIMIT, async || {
                daemon.http().get("/metrics").await.text.contains(&line)
            })
            .await;
        }
    };
    firing("1").await;
    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3) WHERE resolved_at IS NULL")
        .await;
    for daemon in &daemons {
        daemon.reconcile(&json!({})).await;
    }
    firing("0").await;
    let open = "SELECT COUNT(*) FROM webhook_outbox WHERE sent_at IS NULL";
    eventually("everything is posted", LIMIT, async || {
        world.sql.number(open).await == 0
    })
    .await;
    let told = [
        "drop.issued",
        "drop.sold_out",
        "alert.drift",
        "alert.broken",
        "alert.resolved",
    ]
    .map(|kind| receiver.count(kind));
    let posted = receiver.posted("/hook");
    assert_eq!(told[1..], [1, 2, 0, 1], "{posted:#?}");
    assert!(
        told[0] >= 1 && posted.iter().any(|(_, body)| body["data"]["issued"] == 20),
        "{posted:#?}"
    );
    for header in [
        "webhook-id: evt_",
        "webhook-timestamp: ",
        "webhook-signature: v1,",
        "content-type: application/json",
    ] {
        assert!(
            posted.iter().all(|(head, _)| head.contains(header)),
            "{header}: {posted:#?}"
        );
    }
    for daemon in daemons {
        let metrics = daemon.http().get("/metrics").await.text;
        let counted = "firstcome_webhooks_total{result=\"sent\"}";
        assert!(metrics.contains(counted), "{metrics}");
        assert_eq!(daemon.process.stop().await, 0);
    }
}
