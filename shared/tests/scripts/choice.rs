//! Tests the choice between two candidate drops, by Redis's time and the windows in `meta`.

use firstcome_shared::domain::{DropId, OncePer};
use firstcome_shared::redis::admission::{Admission, Candidates};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::RedisServer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, server, word};

const NEXT: DropId = DropId(4);
const MINUTE: i64 = 60_000;

/// Windows of the drops 3 and 4, in milliseconds from now. They have no gap, like those of a daily
/// coupon from midnight to midnight, unless the time is between them.
type Windows = [[i64; 2]; 2];
const FIRST_IS_OPEN: Windows = [[-MINUTE, MINUTE], [MINUTE, 2 * MINUTE]];
const BETWEEN: Windows = [[-2 * MINUTE, -MINUTE], [MINUTE, 2 * MINUTE]];
const JUST_AFTER_MIDNIGHT: Windows = [[-MINUTE, -100], [-100, MINUTE]];
const LONG_AFTER_MIDNIGHT: Windows = [[-2 * MINUTE, -16_000], [-16_000, MINUTE]];
const OVER: Windows = [[-3 * MINUTE, -2 * MINUTE], [-2 * MINUTE, -MINUTE]];
const EARLY: Windows = [[MINUTE, 2 * MINUTE], [2 * MINUTE, 3 * MINUTE]];

use OncePer::{Coupon, Drop};

/// What happened before, who claims, and the answers, with the drop that gave slots. What happened:
/// `a=1,5000` was admitted to slot 1 of drop 3 that many milliseconds ago; `elsewhere:b` holds a
/// slot of another drop; `revoked:a`; and `paused`, `listed` or `lost` settings of a drop.
#[rustfmt::skip]
const CASES: [(OncePer, Windows, &str, &str, &str); 24] = [
    (Drop, FIRST_IS_OPEN, "", "ab", "Accepted(1) Accepted(2) of 3"),
    (Drop, LONG_AFTER_MIDNIGHT, "a=1,0 b=2,0", "ab", "Accepted(1) Accepted(2) of 4"),
    // Without an open drop, holders get their slot, and others the reason.
    (Drop, BETWEEN, "a=1,90000", "ab", "Already(DropId(3), 1) NotOpen(1)"),
    (Drop, OVER, "a=1,90000", "ab", "Already(DropId(3), 1) Closed"),
    (Drop, EARLY, "", "b", "NotOpen(1)"),
    (Drop, BETWEEN, "a=1,90000 revoked:3:a", "a", "NotOpen(1)"),
    // A retry after midnight finds its claim, and other holders get a new slot.
    (Drop, JUST_AFTER_MIDNIGHT, "a=1,5000 b=2,30000 c=3,5000 revoked:3:c", "abcd", "Already(DropId(3), 1) Accepted(1) Accepted(2) Accepted(3) of 4"),
    (Drop, JUST_AFTER_MIDNIGHT, "a=1,15100", "a", "Accepted(1) of 4"),
    // A drop without settings may be open, unless its neighbour is.
    (Drop, FIRST_IS_OPEN, "a=1,5000 lost:3", "ab", "Unloaded(DropId(3)) Unloaded(DropId(3))"),
    (Drop, LONG_AFTER_MIDNIGHT, "lost:3", "b", "Accepted(1) of 4"),
    (Drop, BETWEEN, "a=1,90000 lost:4", "ab", "Already(DropId(3), 1) Unloaded(DropId(4))"),
    (Drop, LONG_AFTER_MIDNIGHT, "paused:3 listed:3", "a", "Accepted(1) of 4"),
    (Drop, LONG_AFTER_MIDNIGHT, "paused:4", "b", "Paused"),
    // A holder of a coupon that is given once keeps the slot in all later windows.
    (Coupon, FIRST_IS_OPEN, "", "a", "Accepted(1) of 3"),
    (Coupon, FIRST_IS_OPEN, "a=1,0 elsewhere:b", "ab", "Already(DropId(3), 1) Already(DropId(99), 1)"),
    (Coupon, JUST_AFTER_MIDNIGHT, "a=1,0 elsewhere:b", "ab", "Already(DropId(3), 1) Already(DropId(99), 1)"),
    (Coupon, LONG_AFTER_MIDNIGHT, "a=1,0 elsewhere:b", "ab", "Already(DropId(3), 1) Already(DropId(99), 1)"),
    (Coupon, BETWEEN, "a=1,0 elsewhere:b", "ab", "Already(DropId(3), 1) Already(DropId(99), 1)"),
    (Coupon, OVER, "a=1,0 elsewhere:b", "ab", "Already(DropId(3), 1) Already(DropId(99), 1)"),
    (Coupon, FIRST_IS_OPEN, "a=1,0 revoked:a", "a", "Revoked"),
    (Coupon, JUST_AFTER_MIDNIGHT, "a=1,0 revoked:a", "a", "Revoked"),
    (Coupon, LONG_AFTER_MIDNIGHT, "a=1,0 revoked:a", "a", "Revoked"),
    (Coupon, BETWEEN, "a=1,0 revoked:a", "a", "Revoked"),
    (Coupon, OVER, "a=1,0 revoked:a", "a", "Revoked"),
];

/// A coupon with two drops.
struct TwoDays<'a> {
    server: &'a RedisServer,
    world: ScriptWorld,
    next: DropKeys,
}

impl TwoDays<'_> {
    async fn now_ms(&self) -> i64 {
        let (seconds, micros): (i64, i64) = ask(self.server, &["TIME"]).await;
        seconds * 1_000 + micros / 1_000
    }

    async fn set(&self, key: &str, field: &str, value: &str) {
        ask::<i64>(self.server, &["HSET", key, field, value]).await;
    }

    async fn open(&self, windows: Windows) {
        let first = &self.world.keys;
        ask::<bool>(self.server, &["COPY", &first.meta, &self.next.meta]).await;
        ask::<()>(self.server, &["SET", &self.next.count, "0"]).await;
        let now = self.now_ms().await;
        for (keys, window) in [first, &self.next].into_iter().zip(windows) {
            let [opens, closes] = window.map(|ms| (now + ms).to_string());
            self.set(&keys.meta, "opens_at_ms", &opens).await;
            self.set(&keys.meta, "closes_at_ms", &closes).await;
        }
    }

    async fn happens(&self, what: &str) {
        let keys = &self.world.keys;
        if let Some((user, held)) = what.split_once('=') {
            let (slot, ago) = held.split_once(',').unwrap();
            let at = (self.now_ms().await - ago.parse::<i64>().unwrap()).to_string();
            ask::<i64>(self.server, &["ZADD", &keys.users, slot, user]).await;
            ask::<()>(self.server, &["SET", &keys.count, slot]).await;
            self.set(&keys.times, slot, &at).await;
            if self.world.meta.once_per == Coupon {
                let claim = format!("{}:{slot}", DROP.0);
                self.set(&keys.claimants, user, &claim).await;
            }
            return;
        }
        let (what, whom) = what.split_once(':').unwrap();
        let meta = if whom == "4" {
            &self.next.meta
        } else {
            &keys.meta
        };
        match what {
            "elsewhere" => self.set(&keys.claimants, whom, "99:1").await,
            "revoked" => self.set(&keys.revoked, whom, "1").await,
            "paused" => self.set(meta, "paused", "1").await,
            "listed" => self.set(meta, "allow", "list").await,
            _ => ask::<()>(self.server, &["DEL", meta]).await,
        }
    }

    /// Returns the contents of the keys of a drop.
    async fn dump(&self, keys: &DropKeys) -> Vec<Option<Vec<u8>>> {
        let mut all = Vec::new();
        for key in keys.own() {
            all.push(ask(self.server, &["DUMP", key]).await);
        }
        all
    }

    /// Returns an answer in words. The holder of a slot of drop 3 gets the time of the admission,
    /// because the API publishes the claim again, with this time.
    async fn shown(&self, admission: Admission) -> String {
        match admission {
            Admission::NotOpen(at) => {
                let minutes = (at - self.now_ms().await + MINUTE / 2) / MINUTE;
                format!("NotOpen({minutes})")
            }
            Admission::Closed(_) => "Closed".to_owned(),
            Admission::Already(held) => {
                let times = ["HGET", &self.world.keys.times, &held.slot.to_string()];
                let at: Option<i64> = ask(self.server, &times).await;
                let at = at.filter(|_| held.drop == DROP);
                let told = held.claimed_at.map(|at| at.timestamp_millis());
                assert_eq!(told, at, "{held:?}");
                word(&admission)
            }
            other => word(&other),
        }
    }

    /// Returns the answers and the drop that gave slots. The order of the candidates must not
    /// matter: a caller may name the wrong drop first, because an operator moved the windows or the
    /// caller's clock is wrong.
    async fn claim(&self, people: &str) -> String {
        let (first, next) = (&self.world.keys, &self.next);
        let among = async |first, second| {
            let second = Some(second);
            let candidates = Candidates { first, second };
            let said = self.world.admissions(candidates, people, false).await;
            let replies = said.unwrap().replies.into_iter();
            replies.map(Option::unwrap).collect::<Vec<_>>()
        };
        let answers = among(first, next).await;
        let again = among(next, first).await;
        let mut open = None;
        let mut told = Vec::new();
        for (answer, again) in answers.into_iter().zip(again) {
            let expected = match answer {
                Admission::Accepted(given) => {
                    open = Some(given.drop);
                    Admission::Already(given)
                }
                other => other,
            };
            assert_eq!(again, expected);
            told.push(self.shown(answer).await);
        }
        told.extend(open.map(|drop| format!("of {}", drop.0)));
        told.join(" ")
    }
}

/// A drop that is not open stays unchanged.
#[tokio::test]
async fn claim_is_answered_by_the_open_drop_else_by_the_one_that_its_user_holds() {
    let server = server().await;
    for (number, (once_per, windows, before, people, expected)) in (1..).zip(CASES) {
        let start = Start::new(5, once_per, 0);
        let world = ScriptWorld::open(&server.url(), number, &start).await;
        let days = TwoDays {
            next: world.redis.keys(world.coupon, NEXT),
            server: &server,
            world,
        };
        days.open(windows).await;
        for what in before.split_whitespace() {
            days.happens(what).await;
        }
        let both = [(DROP, &days.world.keys), (NEXT, &days.next)];
        let dumps = async || [days.dump(both[0].1).await, days.dump(both[1].1).await];
        let unchanged = dumps().await;
        let told = days.claim(people).await;
        let place = format!("{once_per:?}, {windows:?}, {before}");
        assert_eq!(told, expected, "{place}");
        for (((drop, _), before), after) in both.iter().zip(&unchanged).zip(dumps().await) {
            let is_open = told.ends_with(&format!("of {}", drop.0));
            assert!(is_open || *before == after, "{place}: drop {drop:?}");
        }
    }
}
