//! The same rush on every design.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_rush::live::step;
use firstcome_rush::system::Service;
use firstcome_shared::kafka::{KafkaSettings, ensure_topic};
use mysql_async::prelude::Queryable as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::cli::Size;
use crate::designs::{Design, prepare};
use crate::load::{Plan, Seen, crowd};
use crate::meter::{Cost, Meter};
use crate::report::{Figure, Target};
use crate::world::{Site, World, address, connection};

const PART: &str = "designs";
/// Rows that do not come for so long do not come any more. Longer than a killed consumer's session.
const STILL: Duration = Duration::from_secs(12);
/// The shortest time between two looks at MySQL's counters.
const SAMPLE: Duration = Duration::from_millis(100);
/// A slow design is looked at so often in all, since each look costs MySQL a millisecond too.
const LOOKS: u32 = 50;

/// A fast design is measured so often, and the run in the middle counts.
const TURNS: usize = 3;
/// A slow one is measured no more after this.
const ENOUGH: Duration = Duration::from_secs(15);

/// What a rush on one design came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DesignRun {
    /// Which.
    pub design: Design,
    /// What the crowd was told.
    pub seen: Seen,
    /// Rows afterwards.
    pub rows: u64,
    /// Rows above the quantity.
    pub too_many: u64,
    /// Rows missing to the quantity although more people asked.
    pub too_few: u64,
    /// Rows of people who have another one.
    pub twice: u64,
    /// People told `accepted` or `already_claimed` who have no row.
    pub yes_without_row: u64,
    /// People told `accepted` who have no row after the consumer was killed in the middle of another rush; only for designs
    /// that have one.
    pub lost_by_consumer_kill: Option<u64>,
    /// The same after MySQL was killed in the middle of it and came back.
    pub lost_by_mysql_crash: Option<u64>,
    /// What it cost the servers, until the last row stood.
    pub cost: Cost,
    /// MySQL statements so far, by seconds.
    pub statements: Vec<(f64, u64)>,
}

/// The processes of a design, and where its rows are.
struct Running<'w> {
    world: &'w World,
    site: Option<Site<'w>>,
    place: Vec<String>,
    api: Service,
    consumer: Option<Service>,
    reconciler: Option<Service>,
    coupon: i64,
    rows_of: String,
}

/// Trouble in the middle of a rush.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Consumer,
    Mysql,
}

/// Measures one design.
///
/// # Errors
/// When its processes don't start or the servers can't be asked.
pub async fn run(world: &World, design: Design, size: &Size) -> Result<DesignRun> {
    step(format!("{}: {}", design.word(), design.title()));
    let mut runs = Vec::new();
    let begun = Instant::now();
    while runs.len() < TURNS && (runs.is_empty() || begun.elapsed() < ENOUGH) {
        runs.push(rush(world, design, size).await?);
    }
    let mut done = middle(runs, |run| run.seen.per_second).context("no run")?;
    if design.has_consumer() {
        done.lost_by_consumer_kill = Some(trouble(world, design, size, Trouble::Consumer).await?);
        done.lost_by_mysql_crash = Some(trouble(world, design, size, Trouble::Mysql).await?);
    }
    Ok(done)
}

/// The one in the middle.
fn middle<T>(mut runs: Vec<T>, by: impl Fn(&T) -> f64) -> Option<T> {
    runs.sort_by(|a, b| by(a).total_cmp(&by(b)));
    let at = runs.len() / 2;
    runs.into_iter().nth(at)
}

/// The rush on a design that was started anew.
async fn rush(world: &World, design: Design, size: &Size) -> Result<DesignRun> {
    let running = start(world, design, size.quantity).await?;
    let plan = Plan::rush(address(&running.api)?, running.coupon, size.requests, size.connections);
    let mut meter = Meter::start(world).await?;
    let (seen, statements) = sampled(&plan, &mut meter).await?;
    let looks = running.settle(seen.accepted.len() as u64).await?;
    meter.leave_out(looks);
    let cost = meter.stop(world).await?;
    let held = running.held().await?;
    let mut done = judge(design, size.quantity, seen, &held);
    (done.cost, done.statements) = (cost, statements);
    running.stop().await;
    Ok(done)
}

/// The crowd, with MySQL's statements over time.
async fn sampled(plan: &Plan, meter: &mut Meter) -> Result<(Seen, Vec<(f64, u64)>)> {
    let begun = Instant::now();
    let mut series = vec![(0.0, 0)];
    let mut asking = std::pin::pin!(crowd(plan));
    let seen = loop {
        let pause = SAMPLE.max(begun.elapsed() / LOOKS);
        tokio::select! {
            seen = &mut asking => break seen?,
            () = sleep(pause) => series.push((begun.elapsed().as_secs_f64(), meter.statements().await?)),
        }
    };
    series.push((begun.elapsed().as_secs_f64(), meter.statements().await?));
    Ok((seen, series))
}

fn judge(design: Design, quantity: u32, mut seen: Seen, held: &HashMap<String, u64>) -> DesignRun {
    let rows: u64 = held.values().sum();
    let yes_without_row = lost(seen.yes.keys(), held);
    // The report has no use for names.
    seen.yes.clear();
    seen.accepted.clear();
    let wanted = u64::from(quantity);
    DesignRun {
        design,
        rows,
        too_many: rows.saturating_sub(wanted),
        too_few: wanted.saturating_sub(rows),
        twice: rows - held.len() as u64,
        yes_without_row,
        lost_by_consumer_kill: None,
        lost_by_mysql_crash: None,
        cost: Cost::default(),
        statements: Vec::new(),
        seen,
    }
}

fn lost<'a>(told: impl Iterator<Item = &'a String>, held: &HashMap<String, u64>) -> u64 {
    told.filter(|user| !held.contains_key(*user)).count() as u64
}

/// A rush in which something is killed once a third of the rows stand; people told `accepted` who have no row afterwards.
async fn trouble(world: &World, design: Design, size: &Size, what: Trouble) -> Result<u64> {
    let mut running = start(world, design, size.trouble).await?;
    let plan = Plan::rush(address(&running.api)?, running.coupon, size.trouble * 4, size.connections);
    let asking = tokio::spawn(async move { crowd(&plan).await });
    running.until_rows(u64::from(size.trouble / 3)).await?;
    match what {
        Trouble::Consumer => {
            let killed = running.consumer.take().context("no consumer")?;
            killed.kill().await?;
            running.consumer = Some(running.new_consumer(design).await?);
        }
        Trouble::Mysql => {
            world.stack.mysql.kill().await?;
            sleep(Duration::from_secs(1)).await;
            world.stack.mysql.start_again().await?;
        }
    }
    let seen = asking.await??;
    running.settle(seen.accepted.len() as u64).await?;
    let missing = lost(seen.accepted.iter(), &running.held().await?);
    running.stop().await;
    Ok(missing)
}

async fn start(world: &World, design: Design, quantity: u32) -> Result<Running<'_>> {
    if design == Design::H { firstcome(world, quantity).await } else { other(world, design, quantity).await }
}

async fn firstcome(world: &World, quantity: u32) -> Result<Running<'_>> {
    let site = Site::make(world, "rush").await?;
    let (reconciler, api, consumer) = tokio::try_join!(site.reconciler(), site.api(), site.consumer())?;
    let coupon = site.coupon(&api, quantity).await?;
    Ok(Running {
        world,
        rows_of: format!("{}.issued_coupons WHERE drop_id = {}", site.database(), coupon.drop),
        site: Some(site),
        place: Vec::new(),
        api,
        consumer: Some(consumer),
        reconciler: Some(reconciler),
        coupon: coupon.id,
    })
}

async fn other(world: &World, design: Design, quantity: u32) -> Result<Running<'_>> {
    let stack = &world.stack;
    prepare(&stack.mysql, design, quantity).await?;
    let mut redis = redis::Client::open(stack.redis.url())?.get_multiplexed_async_connection().await?;
    let keys = ["count", "users", "lock"].map(|name| design.key(name));
    redis::cmd("DEL").arg(&keys).query_async::<()>(&mut redis).await?;
    let topic = format!("bench-{}-{:08x}", design.word(), rand::random::<u32>());
    let place: Vec<String> = [
        ("--design", design.word().to_owned()),
        ("--database", stack.mysql.database_url("bench")),
        ("--redis", stack.redis.url()),
        ("--brokers", stack.kafka.bootstrap()),
        ("--topic", topic.clone()),
        ("--quantity", quantity.to_string()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value])
    .collect();
    if design.has_consumer() {
        let settings = KafkaSettings { brokers: stack.kafka.bootstrap(), group: topic.clone(), topic };
        ensure_topic(&settings, 12, 1, Duration::from_secs(20)).await?;
    }
    let api = world.spawn(&format!("design-{}", design.word()), own(world, "serve", &place)?, "").await?;
    let mut running = Running {
        world,
        site: None,
        rows_of: format!("bench.{}", design.table()),
        place,
        api,
        consumer: None,
        reconciler: None,
        coupon: 1,
    };
    if design.has_consumer() {
        running.consumer = Some(running.new_consumer(design).await?);
    }
    Ok(running)
}

fn own(world: &World, command: &str, place: &[String]) -> Result<tokio::process::Command> {
    let mut args = vec![command];
    args.extend(place.iter().map(String::as_str));
    world.own(&args)
}

impl Running<'_> {
    async fn new_consumer(&self, design: Design) -> Result<Service> {
        if let Some(site) = &self.site {
            return site.consumer().await;
        }
        let command = own(self.world, "consume", &self.place)?;
        self.world.spawn(&format!("consumer-{}", design.word()), command, "consuming ").await
    }

    async fn count(&self, conn: &mut mysql_async::Conn) -> Result<u64> {
        Ok(conn.query_first(format!("SELECT COUNT(*) FROM {}", self.rows_of)).await?.unwrap_or(0))
    }

    async fn until_rows(&self, wanted: u64) -> Result<()> {
        let mut conn = connection(&self.world.stack.mysql.url()).await?;
        let begun = Instant::now();
        while self.count(&mut conn).await? < wanted && begun.elapsed() < STILL {
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Waits until there are so many rows, or no more come; gives how many statements that took.
    async fn settle(&self, wanted: u64) -> Result<u64> {
        let mut conn = connection(&self.world.stack.mysql.url()).await?;
        // Connecting asks for some settings.
        let (mut looks, mut last, mut since) = (2, u64::MAX, Instant::now());
        loop {
            let rows = self.count(&mut conn).await?;
            looks += 1;
            if rows != last {
                (last, since) = (rows, Instant::now());
            }
            if rows >= wanted || since.elapsed() > STILL {
                conn.disconnect().await?;
                return Ok(looks);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Who holds how many rows.
    async fn held(&self) -> Result<HashMap<String, u64>> {
        let mut conn = connection(&self.world.stack.mysql.url()).await?;
        let users: Vec<String> = conn.query(format!("SELECT user_id FROM {}", self.rows_of)).await?;
        let mut held = HashMap::new();
        for user in users {
            *held.entry(user).or_default() += 1;
        }
        Ok(held)
    }

    /// Ends its processes; the other designs have no way to end in order, and need none.
    async fn stop(self) {
        for service in [Some(self.api), self.consumer, self.reconciler].into_iter().flatten() {
            let name = service.name().to_owned();
            let ended = if self.site.is_some() { service.stop().await } else { service.kill().await };
            if let Err(error) = ended {
                step(format!("{name}: {error:#}"));
            }
        }
    }
}

/// The same crowd and a route that does nothing.
///
/// # Errors
/// When it does not start.
pub async fn nothing(world: &World, size: &Size) -> Result<Seen> {
    step("a route that does nothing");
    let service = world.spawn("nothing", world.own(&["nothing"])?, "").await?;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        turns.push(crowd(&Plan::rush(address(&service)?, 1, size.requests, size.connections)).await?);
    }
    service.kill().await?;
    let mut seen = middle(turns, |seen| seen.per_second).context("no run")?;
    seen.yes.clear();
    seen.accepted.clear();
    Ok(seen)
}

/// What follows from the comparison.
pub fn figures(nothing: Option<&Seen>, runs: &[DesignRun]) -> Vec<Figure> {
    let rate = |design| runs.iter().find(|run| run.design == design).map(|run| run.seen.per_second);
    let Some(own) = runs.iter().find(|run| run.design == Design::H) else { return Vec::new() };
    let mut figures = Vec::new();
    for (what, designs) in [
        ("whole rush ÷ best of c, d, e", &[Design::C, Design::D, Design::E][..]),
        ("whole rush ÷ best of c, d", &[Design::C, Design::D]),
        ("whole rush ÷ best of them when they look before they lock", &[Design::CLook, Design::DLook]),
        ("whole rush ÷ e with its counter first, which tells holders that it is sold out", &[Design::EFirst]),
    ] {
        let best = designs.iter().filter_map(|design| rate(*design)).fold(0.0, f64::max);
        if best > 0.0 {
            figures.push(beside(what, own.seen.per_second, best, nothing));
        }
    }
    if let Some(first) = figures.first_mut() {
        first.target = Some(Target::AtLeast(10.0));
    }
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let (statements, requests) = (own.cost.mysql_statements as f64, own.seen.requests as f64);
    let figure = Figure::of(PART, "MySQL statements of a whole rush, all processes, without passes", statements, "");
    figures
        .push(figure.with("requests", requests).with("MySQL CPU s", own.cost.mysql_cpu).target(Target::AtMost(50.0)));
    let rate = Figure::of(PART, "claims of that rush", own.seen.per_second, "/s");
    figures.push(rate.with("crowd CPU s", own.seen.cpu_seconds).with("unclear answers", unclear(&own.seen)));
    figures
}

/// Firstcome beside the best of some; where even a route that does nothing is not ten times as fast, that is the limit.
fn beside(what: &str, own: f64, best: f64, nothing: Option<&Seen>) -> Figure {
    let figure = Figure::ratio(PART, what, ("Firstcome/s", own), ("best/s", best));
    let Some(nothing) = nothing else { return figure };
    let figure = figure.with("nothing/s", nothing.per_second);
    let most = nothing.per_second / best;
    figure.note(format!(
        "the HTTP server on these cores: a route that does nothing is {most:.1} times the best, and Firstcome does {:.0} % of that route",
        own / nothing.per_second * 100.0
    ))
}

#[allow(clippy::cast_precision_loss, reason = "a small count")]
fn unclear(seen: &Seen) -> f64 {
    seen.unclear() as f64
}
