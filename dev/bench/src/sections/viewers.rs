//! Winning claims per second while ten thousand users have the coupon's page open and fifty
//! operators watch the operations page live.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_load::launch::until;
use firstcome_load::terminal::step;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::figures::{Ratios, median};
use super::winning::{Winning, everyone_wins};
use crate::Bench;
use crate::cli::BenchSize;
use crate::report::{FigureTarget, Measurement};

const PART: &str = "viewers";
const VIEWERS: u32 = 10_000;
const OPERATORS: u32 = 50;
/// `page.js` spreads look-ups of claims over this period.
const LOOK_JITTER_MS: u32 = 3_000;
/// Spreads the users with consecutive numbers, who open their pages one after the other.
const JITTER_STEP_MS: u32 = 1_237;
/// Number of turns with viewers, and as many without. They alternate, so that background load
/// affects both.
const TURNS: u32 = 5;

pub async fn measure(bench: &Bench, size: &BenchSize) -> Result<Vec<Measurement>> {
    let installation = bench.install("viewers").await?;
    let (reconciler, api) =
        tokio::try_join!(installation.reconciler(), installation.api_with_pages())?;
    let consumer = installation.consumer().await?;
    // All coupons are created before the first turn, because no page looks up its claim directly
    // after an opening.
    let mut coupons = Vec::new();
    for _ in 0..2 * TURNS {
        coupons.push(installation.coupon(&api, size.winners / TURNS).await?);
    }
    let first = coupons.first().context("no coupon")?.id;
    let (every, _) = Seen::default()
        .state(api.address()?, first, "viewer")
        .await?;
    let board = reconciler.address()?;
    let cookie = log_in(board, &installation.ops(&reconciler)?.token).await?;
    step(format!(
        "everyone wins with {VIEWERS} open pages and {OPERATORS} operations pages, in turns with claims alone"
    ));
    let mut alone = Vec::new();
    let mut beside = Vec::new();
    let mut looks = Vec::new();
    for pair in coupons.chunks_exact(2) {
        alone.push(everyone_wins(&api, pair[0], size).await?.per_second);
        installation.every_row(pair[0]).await?;
        let seen = Arc::new(Seen::default());
        let mut viewers = open(api.address()?, pair[1].id, every, &seen);
        for _ in 0..OPERATORS {
            viewers.spawn(watch(board, cookie.clone(), Arc::clone(&seen)));
        }
        let are_open = async || {
            ensure!(
                seen.refused.load(Ordering::Relaxed) == 0,
                "a page could not be opened: {}",
                seen.why()
            );
            Ok(seen.open.load(Ordering::Relaxed) == u64::from(VIEWERS))
        };
        until("all pages are open", are_open).await?;
        let [answered, live] =
            [&seen.answered, &seen.live].map(|count| count.load(Ordering::Relaxed));
        let Winning {
            per_second,
            seconds,
            ..
        } = everyone_wins(&api, pair[1], size).await?;
        beside.push(per_second);
        let answered = seen.answered.load(Ordering::Relaxed) - answered;
        let live = seen.live.load(Ordering::Relaxed) - live;
        drop(viewers);
        let refused = seen.refused.load(Ordering::Relaxed);
        ensure!(
            answered > 0 && refused == 0,
            "{answered} pages were answered and {refused} were not: {}",
            seen.why()
        );
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        let answered = answered as f64 / seconds;
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        let live = live as f64 / seconds.floor() / f64::from(OPERATORS);
        ensure!(
            live > 0.5,
            "an operations page got {live:.1} updates a second"
        );
        looks.push(answered);
        installation.every_row(pair[1]).await?;
    }
    consumer.stop().await?;
    api.stop().await?;
    reconciler.stop().await?;
    let ratios = Ratios::of(&beside, &alone);
    let ratio = Measurement::of(
        PART,
        format!("everyone wins with {VIEWERS} open pages and {OPERATORS} operations pages ÷ alone"),
        ratios.median,
        "×",
    )
    .with("with pages/s", median(beside))
    .with("alone/s", median(alone))
    .with("requests of pages/s", median(looks));
    Ok(vec![ratio.target(FigureTarget::AtLeast(0.9)).note(format!(
        "median of {TURNS} turns ({ratios}); all pages have loaded script and style and looked up their claim before; each \
         polls the state every {} s, the server's interval, on a new connection",
        every.as_secs()
    ))])
}

#[derive(Default)]
struct Seen {
    /// Number of pages that were loaded.
    open: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    /// The reason of the first refusal.
    why: OnceLock<String>,
    /// Number of events that operations pages received.
    live: AtomicU64,
}

impl Seen {
    fn fails(&self, error: &anyhow::Error) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.why.get_or_init(|| format!("{error:#}"));
    }

    fn why(&self) -> &str {
        self.why.get().map_or("", String::as_str)
    }

    /// Sends a request as a coupon page does, and returns the body of the response.
    async fn get(&self, target: SocketAddr, path: &str, user: &str) -> Result<String> {
        let mut connection = TcpStream::connect(target).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nx-user-id: {user}\r\nconnection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        let body = answer
            .strip_prefix("HTTP/1.1 200")
            .and_then(|answer| answer.split_once("\r\n\r\n"));
        let body = body.with_context(|| answer.clone())?.1.to_owned();
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(body)
    }

    /// Requests the coupon's state. Returns the time of the next poll, and the time to look up the
    /// user's claim.
    async fn state(
        &self,
        target: SocketAddr,
        coupon: i64,
        user: &str,
    ) -> Result<(Duration, Option<Duration>)> {
        let body = self
            .get(target, &format!("/c/{coupon}/state"), user)
            .await?;
        let state: serde_json::Value = serde_json::from_str(&body)?;
        let after = |name: &str| state[name].as_u64().map(Duration::from_millis);
        Ok((
            after("poll_after_ms").context("the state has no poll_after_ms")?,
            after("look_after_ms"),
        ))
    }
}

/// Logs in to the operations page and returns the cookie.
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
    let cookie = answer
        .split("set-cookie: ")
        .nth(1)
        .and_then(|rest| rest.split(';').next());
    cookie
        .map(str::to_owned)
        .with_context(|| format!("no cookie in {answer}"))
}

/// Watches the operations page live until the future is dropped.
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
    if let Err(error) = ended {
        seen.fails(&error);
    }
}

/// Opens pages, spread evenly over one polling interval, until the set is dropped.
fn open(target: SocketAddr, coupon: i64, every: Duration, seen: &Arc<Seen>) -> JoinSet<()> {
    let mut viewers = JoinSet::new();
    for number in 0..VIEWERS {
        let seen = Arc::clone(seen);
        viewers.spawn(async move {
            tokio::time::sleep(every * number / VIEWERS).await;
            if let Err(error) = view(target, coupon, number, &seen).await {
                seen.fails(&error);
            }
        });
    }
    viewers
}

/// Simulates one page with the requests of `page.js`: the page and the state, the user's claim
/// once, and then the state repeatedly.
async fn view(target: SocketAddr, coupon: i64, number: u32, seen: &Seen) -> Result<()> {
    let user = format!("viewer-{number}");
    let page = seen.get(target, &format!("/c/{coupon}"), &user).await?;
    let assets: BTreeSet<&str> = page
        .split('"')
        .filter(|part| part.starts_with("assets/"))
        .collect();
    ensure!(!assets.is_empty(), "the page has neither script nor style");
    for asset in assets {
        seen.get(target, &format!("/c/{asset}"), &user).await?;
    }
    let (every, look) = seen.state(target, coupon, &user).await?;
    seen.open.fetch_add(1, Ordering::Relaxed);
    if let Some(look) = look {
        // Spreads the clients that got the same time.
        let jitter = number.wrapping_mul(JITTER_STEP_MS) % LOOK_JITTER_MS;
        tokio::time::sleep(look + Duration::from_millis(jitter.into())).await;
        seen.get(target, &format!("/v1/coupons/{coupon}/claims/me"), &user)
            .await?;
    }
    loop {
        tokio::time::sleep(every).await;
        seen.state(target, coupon, &user).await?;
    }
}
