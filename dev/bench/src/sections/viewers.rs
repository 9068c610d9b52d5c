//! Sold-out claims a second while ten thousand people have the coupon's page open, and fifty
//! operators look at the operations page live.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_load::launch::{Coupon, Service};
use firstcome_load::terminal::step;
use firstcome_load::workload::Workload;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::ceilings::sold;
use super::{median, spread};
use crate::Bench;
use crate::cli::Size;
use crate::report::{Measurement, Target};

const PART: &str = "viewers";
const VIEWERS: u32 = 10_000;
const OPERATORS: u32 = 50;
/// Without them and beside them, in turns, so that what else the machine does hits both.
const TURNS: u32 = 5;

pub async fn measure(bench: &Bench, size: &Size) -> Result<Vec<Measurement>> {
    let installation = bench.install("viewers").await?;
    let (reconciler, api) = tokio::try_join!(installation.reconciler(), installation.api_with_pages())?;
    let coupon = sold(&installation, &api, size).await?;
    let every = look(api.address()?, coupon.id).await?;
    let board = reconciler.address()?;
    let cookie = log_in(board, &installation.ops(&reconciler)?.token).await?;
    step(format!(
        "sold-out claims beside {VIEWERS} open pages and {OPERATORS} operations pages, in turns with claims alone"
    ));
    let (mut alone, mut beside, mut looks) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        alone.push(rate(&api, coupon, size, &format!("a{turn}-")).await?.0);
        let seen = Arc::new(Seen::default());
        let mut viewers = open(api.address()?, coupon.id, every, &seen);
        for _ in 0..OPERATORS {
            viewers.spawn(watch(board, cookie.clone(), Arc::clone(&seen)));
        }
        let (per_second, seconds) = rate(&api, coupon, size, &format!("b{turn}-")).await?;
        beside.push(per_second);
        drop(viewers);
        let (answered, refused) = (seen.answered.load(Ordering::Relaxed), seen.refused.load(Ordering::Relaxed));
        ensure!(answered > 0 && refused == 0, "of the pages {answered} were answered and {refused} were not");
        let live = seen.live.load(Ordering::Relaxed);
        ensure!(live >= u64::from(OPERATORS), "the operations pages were told {live} times");
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        looks.push(answered as f64 / seconds);
    }
    api.stop().await?;
    reconciler.stop().await?;
    let ratios: Vec<f64> = beside.iter().zip(&alone).map(|(beside, alone)| beside / alone).collect();
    let (least, most) = spread(&ratios);
    let ratio = Measurement::of(
        PART,
        format!("sold-out claims beside {VIEWERS} open pages and {OPERATORS} operations pages ÷ alone"),
        median(ratios),
        "×",
    )
    .with("beside them/s", median(beside))
    .with("alone/s", median(alone))
    .with("looks/s", median(looks));
    Ok(vec![ratio.target(Target::AtLeast(0.9)).note(format!(
        "the middle of {TURNS} turns ({least:.2} to {most:.2}); each page asks every {} s, as the server tells it, on a connection of its own",
        every.as_secs()
    ))])
}

/// Claims a second, and how many seconds it took.
async fn rate(api: &Service, coupon: Coupon, size: &Size, prefix: &str) -> Result<(f64, f64)> {
    let claims = Workload::once_each(api.address()?, coupon.id, size.many_requests * 4, size.connections);
    let tally = claims.named(prefix).run().await?;
    Ok((tally.per_second, tally.seconds))
}

#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    refused: AtomicU64,
    /// Events of operations pages.
    live: AtomicU64,
}

/// The cookie of somebody who has logged in at the operations page.
async fn log_in(board: SocketAddr, token: &str) -> Result<String> {
    let form = format!("name=bench&token={token}&next=%2F");
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: {board}\r\norigin: http://{board}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let mut connection = TcpStream::connect(board).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let cookie = answer.split("set-cookie: ").nth(1).and_then(|rest| rest.split(';').next());
    cookie.map(str::to_owned).with_context(|| format!("no cookie in {answer}"))
}

/// Looks at the operations page live, until it is dropped.
async fn watch(board: SocketAddr, cookie: String, seen: Arc<Seen>) {
    let watching = async {
        let mut connection = TcpStream::connect(board).await?;
        let request = format!("GET /live HTTP/1.1\r\nhost: {board}\r\ncookie: {cookie}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut part = vec![0; 16 * 1024];
        loop {
            let read = connection.read(&mut part).await?;
            ensure!(read > 0, "the stream ended");
            seen.live.fetch_add(1, Ordering::Relaxed);
        }
    };
    let ended: Result<()> = watching.await;
    if ended.is_err() {
        seen.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Pages that were opened evenly over the time between two looks, until the set is dropped.
fn open(target: SocketAddr, coupon: i64, every: Duration, seen: &Arc<Seen>) -> JoinSet<()> {
    let mut viewers = JoinSet::new();
    for number in 0..VIEWERS {
        let seen = Arc::clone(seen);
        viewers.spawn(async move {
            tokio::time::sleep(every * number / VIEWERS).await;
            loop {
                let count = match look(target, coupon).await {
                    Ok(_) => &seen.answered,
                    Err(_) => &seen.refused,
                };
                count.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(every).await;
            }
        });
    }
    viewers
}

/// Asks as an open page does; in how long to ask again.
async fn look(target: SocketAddr, coupon: i64) -> Result<Duration> {
    let mut connection = TcpStream::connect(target).await?;
    let request = format!("GET /c/{coupon}/state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let body = answer.strip_prefix("HTTP/1.1 200").and_then(|answer| answer.split_once("\r\n\r\n"));
    let state: serde_json::Value = serde_json::from_str(body.with_context(|| answer.clone())?.1)?;
    Ok(Duration::from_millis(state["poll_after_ms"].as_u64().context("the page need not ask again")?))
}
