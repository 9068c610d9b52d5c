//! Whether the next drop of a coupon can open: a readiness check that reads what its claims will
//! need, and changes nothing.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, Coupon, Drop};
use firstcome_shared::http::views::{ReadinessCheck, ReadinessPart};
use firstcome_shared::redis::keys::DropMeta;
use firstcome_shared::redis::reads::CouponState;
use firstcome_shared::redis::refusing::text_of;
use firstcome_shared::report::wording::count;
use redis::RedisResult;

use crate::barrier::{self, ReadState};
use crate::context::Stores;
use crate::notify::queries::outbox;
use crate::report::{Finding, Kind};

/// What one user of a drop takes in Redis, in bytes, with room for growing tables.
const BYTES_PER_USER: u64 = 200;

/// Messages that consumers may have left to read in each partition: a batch.
const BATCH: i64 = 1_000;

/// A mail that has waited longer does not arrive.
const MAIL_SECONDS: i64 = 300;

/// How long before an opening a daemon begins to check it.
const BEFORE_OPENING: TimeDelta = TimeDelta::minutes(30);

/// Openings that one round checks. Most of what they need they share.
const AT_ONCE: usize = 200;

/// Reports the drops that open soon and could not: one finding for each, which names every part that
/// is not ready.
pub(crate) async fn unready(stores: &Stores, coupons: &[(Coupon, Vec<Drop>)]) -> Vec<Finding> {
    let now = Utc::now();
    let opening: Vec<(&Coupon, &Drop)> = coupons
        .iter()
        .filter_map(|(coupon, drops)| {
            let soon = drops.iter().find(|drop| {
                drop.sealed_at.is_none()
                    && drop.opens_at > now
                    && drop.opens_at - now <= BEFORE_OPENING
            });
            Some((coupon, soon?))
        })
        .take(AT_ONCE)
        .collect();
    if opening.is_empty() {
        return Vec::new();
    }
    let shared = shared(stores).await;
    let mut found = Vec::new();
    for (coupon, drop) in opening {
        let mut all = of_coupon(stores, coupon, drop, now).await;
        all.extend(shared.iter().cloned());
        all.retain(|check| !check.ready);
        if !all.is_empty() {
            found.push(not_ready(coupon, drop, &all));
        }
    }
    found
}

fn not_ready(coupon: &Coupon, drop: &Drop, faults: &[ReadinessCheck]) -> Finding {
    let name = &coupon.settings.name;
    let at = drop.opens_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let parts = faults
        .iter()
        .map(|check| format!("{}: {}", check.part.name(), check.detail))
        .collect::<Vec<String>>()
        .join("; ");
    Finding {
        coupon_id: Some(coupon.id),
        ..Finding::report(
            Kind::NotReady,
            format!("{name} opens at {at} and is not ready: {parts}"),
        )
    }
}

fn check(part: ReadinessPart, fault: Option<String>, fine: impl Into<String>) -> ReadinessCheck {
    ReadinessCheck {
        part,
        ready: fault.is_none(),
        detail: fault.unwrap_or_else(|| fine.into()),
    }
}

/// Checks everything that claims of a drop need.
pub(crate) async fn checks(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
    now: DateTime<Utc>,
) -> Vec<ReadinessCheck> {
    let mut checks = of_coupon(stores, coupon, drop, now).await;
    checks.extend(shared(stores).await);
    checks
}

/// Checks what no other coupon shares.
async fn of_coupon(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
    now: DateTime<Utc>,
) -> Vec<ReadinessCheck> {
    let (mut checks, state) = admission(stores, coupon, drop, now).await;
    if coupon.settings.allow == Some(Allow::List) {
        checks.push(allow_list(coupon, state.as_ref()));
    }
    checks
}

/// Redis: gate, drop and room.
async fn admission(
    stores: &Stores,
    coupon: &Coupon,
    drop: &Drop,
    now: DateTime<Utc>,
) -> (Vec<ReadinessCheck>, Option<CouponState>) {
    let redis = &stores.redis;
    let keys = redis.keys(coupon.id, drop.id);
    let read = async {
        let servers = redis.servers().await?;
        let state = redis.coupon_state(coupon.id).await?;
        let seen = redis.drop_state(&keys).await?;
        RedisResult::Ok((servers, state, seen, redis.room().await?))
    };
    let (servers, state, seen, room) = match read.await {
        Ok(read) => read,
        Err(error) => {
            let why = format!("Redis cannot be read: {}", text_of(&error));
            return (vec![check(ReadinessPart::Gate, Some(why), "")], None);
        }
    };
    let is_open = state.gate.is_open(servers.holding(coupon.id), coupon.era);
    let closed = "claims get 503: the coupon is closed until a reconciler has verified Redis";
    let gate = (!is_open).then(|| closed.to_owned());
    let meta = DropMeta::new(coupon, drop);
    let fault = match &seen.meta {
        None => Some("Redis does not have it yet".to_owned()),
        Some(of_redis) if *of_redis != meta => Some("Redis has other settings".to_owned()),
        Some(_) if !seen.adds_up() => Some("its numbers in Redis do not add up".to_owned()),
        Some(_) if now < drop.opens_at && seen.users > 0 => {
            let users = count(seen.users, "user holds", "users hold");
            Some(format!("{users} a slot before it opens"))
        }
        Some(_) => None,
    };
    let needed = u64::from(drop.quantity) * BYTES_PER_USER;
    let short = room.filter(|room| *room < needed).map(|room| {
        format!(
            "it takes about {} MB, and {} MB are left below maxmemory",
            needed.div_ceil(1_000_000),
            room / 1_000_000
        )
    });
    let checks = vec![
        check(ReadinessPart::Gate, gate, "open"),
        check(ReadinessPart::Drop, fault, "loaded"),
        check(ReadinessPart::RedisRoom, short, "enough"),
    ];
    (checks, Some(state))
}

/// Checks what all coupons share: the way of a claim into MySQL (consumers, messages, partitions,
/// MySQL itself), and mails.
async fn shared(stores: &Stores) -> Vec<ReadinessCheck> {
    let db = &stores.db;
    let written = db.check_writes().await;
    let mysql = written
        .err()
        .map(|error| format!("MySQL takes no writes: {error}"));
    let mut checks = vec![check(ReadinessPart::Mysql, mysql, "takes writes")];
    match db.processes().await {
        Ok(running) => {
            let consumers = running
                .iter()
                .filter(|process| process.role == "consume")
                .count();
            let none = (consumers == 0).then(|| "no consumer runs".to_owned());
            let running = count(consumers as u64, "consumer runs", "consumers run");
            checks.push(check(ReadinessPart::Consumers, none, running));
        }
        Err(error) => {
            let why = format!("MySQL cannot be read: {error}");
            checks.push(check(ReadinessPart::Consumers, Some(why), ""));
        }
    }
    match barrier::read_state(db, &stores.topic).await {
        Ok(state) => checks.extend(reading(&state)),
        Err(error) => checks.push(check(ReadinessPart::Lag, Some(error.to_string()), "")),
    }
    checks.push(mails(stores).await);
    checks
}

fn reading(state: &ReadState) -> [ReadinessCheck; 2] {
    let unread = state.unread_messages();
    let partitions = i64::try_from(state.logs.len()).unwrap_or(i64::MAX);
    let messages = count(
        unread.unsigned_abs(),
        "message is unread",
        "messages are unread",
    );
    let behind = (unread > partitions.saturating_mul(BATCH)).then(|| messages.clone());
    let left = state
        .is_unattended()
        .then(|| "no consumer reads a partition that has messages".to_owned());
    let read = count(state.logs.len() as u64, "partition", "partitions");
    [
        check(ReadinessPart::Lag, behind, messages),
        check(ReadinessPart::Partitions, left, read),
    ]
}

fn allow_list(coupon: &Coupon, state: Option<&CouponState>) -> ReadinessCheck {
    let people = coupon.allow_list.people;
    let on_it = count(people, "user is on it", "users are on it");
    let fault = match state {
        _ if people == 0 => Some("nobody is on it".to_owned()),
        Some(state) if state.list.is(coupon.allow_list) => None,
        _ => Some(format!("{on_it}, but Redis has another list")),
    };
    check(ReadinessPart::AllowList, fault, on_it)
}

async fn mails(stores: &Stores) -> ReadinessCheck {
    let fault = match outbox::late(&stores.db, MAIL_SECONDS).await {
        Ok(0) => None,
        Ok(late) => Some(format!(
            "{} for more than 5 minutes",
            count(late, "mail or event waits", "mails or events wait")
        )),
        Err(error) => Some(format!("MySQL cannot be read: {error}")),
    };
    check(ReadinessPart::Mails, fault, "none waits")
}
