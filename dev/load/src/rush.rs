//! The load tool `rush` sends a crowd to any running system and reports its answers as a table or
//! as JSON. The bench runs it too, as a separate process, so that the crowd's CPU time does not
//! count as that of a server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use clap::{Parser, value_parser};
use firstcome_stack::{built_program, mysql_connection};
use mysql_async::Conn;
use tokio::net::lookup_host;
use tokio::process::Command;
use tokio::time::{Instant, interval, sleep};

use crate::client::Target;
use crate::crowd::Crowd;
use crate::generator::{self, CrowdPlan};
use crate::identity::read_tokens;
use crate::judged::{Rows, RushHistory, is_violated, kept};
use crate::ops::Ops;
use crate::shops::{self, ShopTally};
use crate::tally::{CrowdProgress, Tally};
use crate::terminal::{Progress, grouped, step, table};

const SAMPLE: Duration = Duration::from_millis(50);
/// Time limit until every API shows a new coupon.
const KNOWN_LIMIT: Duration = Duration::from_secs(15);

/// Lets a crowd claim a coupon of a running Firstcome, and reports the answers.
///
/// By default a closed loop: each connection sends the next request as soon as it gets an answer.
/// With --rate an open loop: users arrive at a fixed rate, and their latency counts from their
/// arrival, so that stalls of the system show.
///
/// Exits with 0 if every user got a final answer, every answer was understood, no two answers
/// contradict each other, and, with --database-url, every promise has its row and no row is one too
/// many; with --use-codes, if there are codes and one order uses each. The quantity must not be
/// changed meanwhile.
#[derive(Debug, Parser)]
#[command(name = "rush", version, max_term_width = 120)]
pub struct RushOptions {
    /// Address of an API, `http://host:port`; may be given several times to spread the crowd over
    /// several APIs
    #[arg(long, env = "API_URLS", required = true, value_delimiter = ',')]
    url: Vec<Target>,
    /// Allow addresses of other machines, which the crowd then puts under load
    #[arg(long)]
    remote: bool,
    /// ID of the coupon to claim, which is really given away. By default a new one is created,
    /// which needs the ops token
    #[arg(long, env = "COUPON", value_parser = value_parser!(i64).range(1..))]
    coupon: Option<i64>,
    /// Ops token of the API, needed to create a coupon
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    ops_token: Option<String>,
    /// Quantity of the created coupon
    #[arg(long, env = "QUANTITY", default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000_000))]
    quantity: u32,
    /// Number of users
    #[arg(long, env = "PEOPLE", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    people: u32,
    /// Beginning of the user IDs; by default a new one, so that a second rush has different users
    #[arg(long)]
    prefix: Option<String>,
    /// Requests per user: the second directly follows the first, as a double click
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=1_000))]
    requests_per_person: u32,
    /// Requests per second (open loop); by default, as fast as responses arrive (closed loop)
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Number of connections, which is also the number of concurrent requests
    #[arg(long, env = "CONNECTIONS", default_value_t = 256)]
    connections: usize,
    /// Let each connection send one request before the clock starts
    #[arg(long)]
    warm_up: bool,
    /// Seconds from the start during which users retry while the coupon is not open or the system
    /// is unavailable
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(0..=86_400))]
    patience: u64,
    /// Database of the system, which is only read: reports whether every promise has its row
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// File with one token per line for each user; by default users have the header X-User-Id
    #[arg(long)]
    tokens: Option<PathBuf>,
    /// File for a history of all requests and answers, for `cargo xtask histories`; with
    /// --database-url it ends with the rows
    #[arg(long)]
    history: Option<PathBuf>,
    /// Then let two orders want the code of each user of this rush at once, at all addresses; needs
    /// --database-url and the redeem token. The codes are really used
    #[arg(long, requires = "database_url")]
    use_codes: bool,
    /// Redeem token of the API
    #[arg(long, env = "REDEEM_TOKEN", hide_env_values = true)]
    redeem_token: Option<String>,
    /// Print the report as JSON, with all users who have a promise. Without --history and
    /// --database-url, answers are only counted
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or_else(|| "requests per second, above 0 and at most 1,000,000".into())
}

/// Runs the program: finds or creates the coupon, lets the crowd claim, compares the answers with
/// the rows if a database is given, and prints the report.
pub async fn run(options: RushOptions) -> Result<ExitCode> {
    options.only_allowed_machines().await?;
    let new = format!("u{:06x}-", rand::random::<u32>() >> 8);
    let prefix = options.prefix.clone().unwrap_or(new);
    let crowd = Crowd::gather(options.people, &prefix, options.requests_per_person)?;
    let tokens = options.tokens.as_deref().map(read_tokens).transpose()?;
    let coupon_id = options.coupon(&prefix).await?;
    let history = options.history(coupon_id).await?;
    let plan = CrowdPlan {
        targets: options.url.clone(),
        coupon_id,
        crowd,
        connections: options.connections,
        tokens,
        rate: options.rate,
        patience: Duration::from_secs(options.patience),
        warm_up: options.warm_up,
        recorder: history.as_ref().map(|history| history.recorder.clone()),
    };
    let progress = Arc::new(CrowdProgress::default());
    let rushing = generator::run(plan, progress.clone());
    let tally = show_progress(&progress, options.json, rushing).await?;
    let rows = options.rows(history.as_ref(), &tally, &prefix).await?;
    let judged = history
        .as_ref()
        .map(|history| history.judge(rows.as_ref(), &prefix));
    let judgement = judged.transpose()?;
    let shops = options.use_codes(coupon_id, &prefix).await?;
    if options.json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        let late = ("requests sent late".to_owned(), grouped(tally.late));
        let mut shown = tally.rows();
        shown.push(late);
        shown.extend(rows.iter().flat_map(Rows::table));
        shown.extend(judgement.as_ref().filter(|_| rows.is_some()).map(kept));
        shown.extend(shops.as_ref().map(ShopTally::row));
        println!("{}", table(shown));
    }
    let violated = judgement.filter(is_violated);
    if let Some(judgement) = &violated {
        step(judgement);
    }
    if let Some(answer) = &tally.unclear {
        step(format!("an answer outside the contract: {answer}"));
    }
    let is_used_once = shops.is_none_or(|shops| shops.codes > 0 && shops.used_once == shops.codes);
    let is_good = tally.good() && violated.is_none() && is_used_once;
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Shows a crowd's progress until its work is done.
pub(crate) async fn show_progress<T>(
    progress: &CrowdProgress,
    quiet: bool,
    work: impl Future<Output = T>,
) -> T {
    let mut shown = Progress::default();
    let mut work = std::pin::pin!(work);
    let mut ticks = interval(SAMPLE);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick(), if !quiet => shown.show(|| progress.line()),
        }
    }
}

async fn connection(database_url: &str) -> Result<Conn> {
    // The error omits the address, because it contains a password.
    let conn = mysql_connection(database_url).await.ok();
    conn.context("MySQL can't be reached at DATABASE_URL")
}

impl RushOptions {
    /// Begins a history, unless answers are only counted.
    async fn history(&self, coupon_id: i64) -> Result<Option<RushHistory>> {
        if self.json && self.history.is_none() && self.database_url.is_none() {
            return Ok(None);
        }
        let api = Ops::new(&self.url[0].to_string(), "");
        let history = RushHistory::begin(&api, coupon_id, self.history.as_deref());
        Ok(Some(history.await?))
    }

    /// Lets two orders try to use the code of each of these users at once, if that was asked for.
    async fn use_codes(&self, coupon_id: i64, prefix: &str) -> Result<Option<ShopTally>> {
        let Some(url) = self.database_url.as_ref().filter(|_| self.use_codes) else {
            return Ok(None);
        };
        let token = self.redeem_token.as_deref().unwrap_or_default();
        let mut conn = connection(url).await?;
        let codes = shops::codes(&mut conn, coupon_id, prefix).await?;
        conn.disconnect().await?;
        let apis = self.url.iter().map(|url| Ops::new(&url.to_string(), token));
        let tally = shops::use_codes(apis.collect(), codes, 2, self.connections).await?;
        Ok(Some(tally))
    }

    async fn only_allowed_machines(&self) -> Result<()> {
        for target in &self.url {
            let mut found = lookup_host(&target.authority)
                .await
                .with_context(|| format!("{target} is not known"))?;
            ensure!(
                self.remote || found.all(|address| address.ip().is_loopback()),
                "{target} is not this machine: a rush takes its capacity and its coupons; add --remote if that is meant"
            );
        }
        Ok(())
    }

    /// Returns the coupon to claim, and creates it if none is given.
    async fn coupon(&self, prefix: &str) -> Result<i64> {
        if let Some(id) = self.coupon {
            step(format!(
                "coupon {id} is really given away, to users named {prefix}…"
            ));
            return Ok(id);
        }
        let token = self.ops_token.as_deref().filter(|token| !token.is_empty());
        let token = token.context(
            "give --coupon, or the ops token (--ops-token, OPS_TOKEN) to create one; `make run` has both: set -a; . target/run/env",
        )?;
        let first = Ops::new(&self.url[0].to_string(), token);
        let id = first
            .make_coupon("Rehearsal", self.quantity, TimeDelta::zero())
            .await?;
        let begun = Instant::now();
        for target in &self.url {
            let api = Ops::new(&target.to_string(), "");
            // Other APIs learn of the coupon a moment later.
            let mut open = api.is_open(id).await;
            while !matches!(open, Ok(true)) {
                let waited = begun.elapsed();
                ensure!(
                    waited < KNOWN_LIMIT,
                    "coupon {id} not open at {target}: {open:?}"
                );
                sleep(SAMPLE).await;
                open = api.is_open(id).await;
            }
        }
        step(format!(
            "created coupon {id}: {} to give away",
            grouped(self.quantity.into())
        ));
        Ok(id)
    }

    /// Reads the rows once there are as many as promises, but waits at most as long as users have
    /// patience. `None` without a database.
    async fn rows(
        &self,
        history: Option<&RushHistory>,
        tally: &Tally,
        prefix: &str,
    ) -> Result<Option<Rows>> {
        let (Some(history), Some(url)) = (history, &self.database_url) else {
            return Ok(None);
        };
        let mut conn = connection(url).await?;
        let begun = Instant::now();
        loop {
            let rows = history.rows(&mut conn).await?;
            let waited = begun.elapsed().as_secs();
            if rows.of(prefix) >= tally.promised.len() || waited >= self.patience {
                conn.disconnect().await?;
                return Ok(Some(rows));
            }
            sleep(SAMPLE).await;
        }
    }
}

/// A crowd in a separate process. Each request is sent once, whatever the answer.
#[derive(Debug, Clone)]
pub struct Workload {
    pub target: SocketAddr,
    pub coupon: i64,
    pub people: u32,
    pub requests_per_person: u32,
    pub connections: usize,
    /// An open loop at this rate, on warmed-up connections. Otherwise a closed loop.
    pub rate: Option<f64>,
    pub prefix: String,
}

impl Workload {
    /// Creates a closed loop in which every user claims once.
    pub fn once_each(target: SocketAddr, coupon: i64, people: u32, connections: usize) -> Self {
        Self {
            target,
            coupon,
            people,
            requests_per_person: 1,
            connections,
            rate: None,
            prefix: "p-".to_owned(),
        }
    }

    pub async fn run(&self) -> Result<Tally> {
        let mut rush = Command::new(built_program("rush")?);
        let flags = [
            ("url", format!("http://{}", self.target)),
            ("coupon", self.coupon.to_string()),
            ("people", self.people.to_string()),
            ("prefix", self.prefix.clone()),
            ("requests-per-person", self.requests_per_person.to_string()),
            ("connections", self.connections.to_string()),
            ("patience", "0".to_owned()),
        ];
        rush.args(flags.map(|(flag, value)| format!("--{flag}={value}")));
        if let Some(rate) = self.rate {
            rush.args([&format!("--rate={rate}"), "--warm-up"]);
        }
        rush.arg("--json")
            .env_remove("DATABASE_URL")
            .kill_on_drop(true);
        let done = rush.output().await?;
        let log = String::from_utf8_lossy(&done.stderr);
        serde_json::from_slice(&done.stdout)
            .with_context(|| format!("rush printed no tally: {log}"))
    }
}
