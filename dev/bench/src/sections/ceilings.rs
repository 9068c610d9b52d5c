//! What the HTTP server, the script and MySQL can do by themselves, and sold-out claims beside the first of these.

use anyhow::{Result, ensure};
use firstcome_rush::live::step;
use firstcome_rush::system::Service;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::keys::DropKeys;

use super::median;
use crate::ceiling::{admit_straight, insert_rows, scan, script};
use crate::cli::Size;
use crate::load::{Plan, Seen, crowd, crowd_at};
use crate::report::{Figure, Target};
use crate::world::{Coupon, Site, World, address};

const PART: &str = "ceilings";
/// Each of two servers is measured so often, in turns, so that what else the machine does hits both.
const TURNS: u32 = 5;

/// Measures them.
///
/// # Errors
/// When something does not start or can't be asked.
pub async fn measure(world: &World, size: &Size) -> Result<Vec<Figure>> {
    let site = Site::make(world, "ceilings").await?;
    let (reconciler, api) = tokio::try_join!(site.reconciler(), site.api())?;
    let mut figures = sold_out(world, &site, &api, size).await?;
    step("the admission script by redis-benchmark");
    for policy in ["always", "everysec"] {
        world.fsync(policy).await?;
        for pipelined in [1, 16] {
            figures.push(admitted(&site, &api, size, policy, pipelined).await?);
        }
    }
    world.fsync("always").await?;
    let gone = site.coupon(&api, 1).await?;
    script(&site, gone, 10, 1, 1).await?;
    let rate = script(&site, gone, size.many_requests, size.connections, 1).await?;
    figures.push(Figure::of(PART, "script, sold out, by redis-benchmark", rate, "/s"));
    step("rows straight into MySQL");
    let coupon = site.coupon(&api, size.missing).await?;
    let took = insert_rows(&site, coupon, 1, size.missing).await?.as_secs_f64();
    let rate = f64::from(size.missing) / took;
    figures.push(Figure::of(PART, "multi-row inserts straight into issued_coupons", rate, "/s").with("seconds", took));
    step("both stores read, nothing compared");
    admit_straight(&site, coupon, size.missing).await?;
    let took = scan(&site, coupon).await?.0.as_secs_f64();
    let rate = f64::from(size.missing) / took;
    figures.push(Figure::of(PART, "claims read from both stores, nothing compared", rate, "/s").with("seconds", took));
    api.stop().await?;
    reconciler.stop().await?;
    Ok(figures)
}

/// Sold-out claims beside a route that does nothing, in turns; then losers by the clock at half that rate.
async fn sold_out(world: &World, site: &Site<'_>, api: &Service, size: &Size) -> Result<Vec<Figure>> {
    let nothing = world.spawn("nothing", world.own(&["nothing"])?, "").await?;
    let coupon = sold(site, api, size).await?;
    let plan = |target, name: &str| {
        Plan::once_each(target, coupon.id, size.many_requests / TURNS, size.connections).named(name)
    };
    let (mut idle, mut lost): (Vec<Seen>, Vec<Seen>) = (Vec::new(), Vec::new());
    let (mut idle_cpu, mut lost_cpu) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (seen, cpu) = crowd_at(nothing.pid(), &plan(address(&nothing)?, &format!("n{turn}-"))).await?;
        idle.push(seen);
        idle_cpu.push(cpu);
        let (seen, cpu) = crowd_at(api.pid(), &plan(address(api)?, &format!("l{turn}-"))).await?;
        lost.push(seen);
        lost_cpu.push(cpu);
    }
    nothing.kill().await?;
    let (idle_cpu, lost_cpu) = (median(idle_cpu), median(lost_cpu));
    let rate = |seen: &[Seen]| median(seen.iter().map(|seen| seen.per_second).collect());
    let (idle_rate, lost_rate) = (rate(&idle), rate(&lost));
    let ratio =
        Figure::ratio(PART, "sold-out claims ÷ do-nothing route", ("sold out/s", lost_rate), ("nothing/s", idle_rate));
    let spread = |seen: &[Seen]| {
        let rates = || seen.iter().map(|seen| seen.per_second);
        (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max))
    };
    let (own, bare) = (spread(&lost), spread(&idle));
    let crowd_share = median(idle.iter().map(|seen| seen.cpu_seconds / seen.seconds).collect());
    Ok(vec![
        ratio.target(Target::AtLeast(0.9)).with("cores the crowd took", crowd_share).note(format!(
            "a claim takes the API {lost_cpu:.1} µs of CPU, the route that does nothing {idle_cpu:.1} µs; medians of {TURNS} \
             turns, sold out {:.0} to {:.0}, nothing {:.0} to {:.0} a second",
            own.0, own.1, bare.0, bare.1
        )),
        by_the_clock(api, size, coupon, lost_rate / 2.0).await?,
    ])
}

/// A coupon of which nothing is left.
async fn sold(site: &Site<'_>, api: &Service, size: &Size) -> Result<Coupon> {
    let coupon = site.coupon(api, size.quantity).await?;
    let buyers = Plan::once_each(address(api)?, coupon.id, size.quantity * 2, size.connections).named("buyer-");
    crowd(&buyers).await?;
    Ok(coupon)
}

async fn by_the_clock(api: &Service, size: &Size, coupon: Coupon, rate: f64) -> Result<Figure> {
    step(format!("losers by the clock, {rate:.0} a second"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive rate")]
    let people = rate as u32 * size.open_seconds;
    let plan = Plan { rate: Some(rate), ..Plan::once_each(address(api)?, coupon.id, people, 512).named("open-") };
    let seen = crowd(&plan).await?;
    let losers = seen.losers.as_ref();
    let at = |pick: fn(&crate::load::Latency) -> f64| losers.map_or(0.0, pick);
    let figure = Figure::of(PART, "p99 of losers at half the maximum rate, open loop", at(|l| l.p99), "ms");
    Ok(figure
        .target(Target::AtMost(10.0))
        .with("rate/s", rate)
        .with("p50 ms", at(|l| l.p50))
        .with("p99.9 ms", at(|l| l.p999))
        .note("latency counts from the intended start; the crowd's timer adds up to 1 ms"))
}

/// How many people a second the script admits.
async fn admitted(site: &Site<'_>, api: &Service, size: &Size, policy: &str, pipelined: u32) -> Result<Figure> {
    let coupon = site.coupon(api, 10_000_000).await?;
    let rate = script(site, coupon, size.many_requests, size.connections, pipelined).await?;
    let mut redis = site.redis().await?;
    let keys = DropKeys::new(site.setting("REDIS_KEY_PREFIX"), CouponId(coupon.id), DropId(coupon.drop));
    let admitted: u32 = redis::cmd("ZCARD").arg(&keys.users).query_async(&mut redis).await?;
    // Names are drawn by chance, so some come twice.
    ensure!(admitted > size.many_requests / 2, "the script admitted {admitted} only of {}", size.many_requests);
    let what = format!("script, everyone wins, by redis-benchmark, {policy}, pipeline {pipelined}");
    Ok(Figure::of(PART, what, rate, "/s"))
}
