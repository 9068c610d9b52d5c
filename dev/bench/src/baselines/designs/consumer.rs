//! The consumer of F and G: one insert per message. Messages that cannot be inserted go to a table
//! that nobody reads.

use std::time::Duration;

use anyhow::Result;
use axum::Router;
use mysql_async::prelude::Queryable as _;
use rdkafka::Message as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::BorrowedMessage;
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::sql::DesignRows;
use super::{DesignArgs, failed_table, front};

/// Number of attempts per insert before it counts as failed.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Event {
    user_id: String,
    slot: u32,
}

/// Consumes until the process ends. Like Firstcome's consumer, it prints its address, and a line
/// once it has partitions.
pub async fn consume(args: &DesignArgs) -> Result<()> {
    tokio::spawn(front::listen(Router::new()));
    let settings = args.kafka();
    // Offsets are committed after the row, so messages of a killed consumer are read again.
    let consumer: StreamConsumer = settings.group_consumer(Duration::from_secs(60)).create()?;
    consumer.subscribe(&[&settings.topic])?;
    let rows = DesignRows::new(args, 4)?;
    let mut ready = false;
    loop {
        if !ready && consumer.assignment()?.count() > 0 {
            ready = true;
            println!("consuming {} as {}", settings.topic, settings.group);
        }
        let Ok(message) = timeout(Duration::from_millis(20), consumer.recv()).await else {
            continue;
        };
        let message = message?;
        handle(&rows, args, &message).await;
        consumer.store_offset_from_message(&message)?;
    }
}

async fn handle(rows: &DesignRows, args: &DesignArgs, message: &BorrowedMessage<'_>) {
    let payload = message.payload().unwrap_or_default();
    if payload.is_empty() {
        return;
    }
    let mut reason = String::new();
    for _ in 0..TRIES {
        match insert(rows, payload).await {
            Ok(()) => return,
            Err(error) => reason = format!("{error:#}"),
        }
        sleep(PAUSE).await;
    }
    eprintln!("an insert failed: {reason}");
    if let Err(error) = store(rows, args, payload, &reason).await {
        eprintln!("the failed message could not be stored: {error:#}");
    }
}

async fn insert(rows: &DesignRows, payload: &[u8]) -> Result<()> {
    let event: Event = serde_json::from_slice(payload)?;
    let mut conn = rows.pool.get_conn().await?;
    // A row that already exists is a redelivery of the same message.
    rows.insert(&mut conn, &event.user_id, event.slot)
        .await
        .map(drop)
}

async fn store(rows: &DesignRows, args: &DesignArgs, payload: &[u8], error: &str) -> Result<()> {
    let sql = format!(
        "INSERT INTO {} (payload, error) VALUES (?, ?)",
        failed_table(args.design)
    );
    let mut conn = rows.pool.get_conn().await?;
    Ok(conn.exec_drop(sql, (payload, error)).await?)
}
