//! A neighbour on the same MySQL, which reads and updates a separate table.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firstcome_stack::mysql_connection;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Rows of its table.
const ROWS: u32 = 10_000;
/// Pause between two requests.
const PAUSE: Duration = Duration::from_millis(2);

pub(super) struct Neighbour {
    stop: CancellationToken,
    requests: JoinHandle<Result<Vec<Duration>>>,
}

impl Neighbour {
    /// Recreates its table in the database of this URL, and begins.
    pub(super) async fn start(database: &str) -> Result<Self> {
        let mut conn = mysql_connection(database).await?;
        for sql in [
            "DROP TABLE IF EXISTS neighbour".to_owned(),
            "CREATE TABLE neighbour (id INT PRIMARY KEY, value INT NOT NULL, filler VARCHAR(200) NOT NULL)"
                .to_owned(),
            "SET SESSION cte_max_recursion_depth = 1000000".to_owned(),
            format!(
                "INSERT INTO neighbour WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
                 SELECT i, 0, REPEAT('x', 200) FROM n"
            ),
        ] {
            conn.query_drop(sql).await?;
        }
        let stop = CancellationToken::new();
        Ok(Self {
            requests: tokio::spawn(requests(conn, stop.clone())),
            stop,
        })
    }

    /// Returns the 99th percentile of the times that its requests took, in milliseconds.
    pub(super) async fn stop(self) -> Result<f64> {
        self.stop.cancel();
        let mut took = self.requests.await??;
        took.sort_unstable();
        let at = took.len() * 99 / 100;
        let found = took.get(at).context("the neighbour measured nothing")?;
        Ok(found.as_secs_f64() * 1e3)
    }
}

/// Reads and updates a row at a time, like a shop's own requests. Returns how long each took.
async fn requests(mut conn: Conn, stop: CancellationToken) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for number in 0_u32.. {
        if stop.is_cancelled() {
            break;
        }
        let id = number.wrapping_mul(2_654_435_761) % ROWS + 1;
        let begun = Instant::now();
        let read = "SELECT value FROM neighbour WHERE id = ?";
        let _: Option<i64> = conn.exec_first(read, (id,)).await?;
        conn.exec_drop("UPDATE neighbour SET value = value + 1 WHERE id = ?", (id,))
            .await?;
        took.push(begun.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    conn.disconnect().await?;
    Ok(took)
}
