//! Tests the choice between two candidate drops, by Redis's time and the windows in `meta`.

use firstcome_shared::domain::{CouponId, DropId, OncePer};
use firstcome_shared::redis::admission::{Admission, Candidates};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::RedisServer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld};

const NEXT: DropId = DropId(4);

const MINUTE: i64 = 60_000;

/// Windows without a gap, like those of a daily coupon from midnight to midnight.
const FIRST_IS_OPEN: [[i64; 2]; 2] = [[-MINUTE, MINUTE], [MINUTE, 2 * MINUTE]];
const BETWEEN: [[i64; 2]; 2] = [[-2 * MINUTE, -MINUTE], [MINUTE, 2 * MINUTE]];
const JUST_AFTER_MIDNIGHT: [[i64; 2]; 2] = [[-MINUTE, -100], [-100, MINUTE]];
const LONG_AFTER_MIDNIGHT: [[i64; 2]; 2] = [[-2 * MINUTE, -16_000], [-16_000, MINUTE]];
const OVER: [[i64; 2]; 2] = [[-3 * MINUTE, -2 * MINUTE], [-2 * MINUTE, -MINUTE]];

/// A coupon with two drops.
struct TwoDays {
    server: RedisServer,
    world: ScriptWorld,
    next: DropKeys,
}

impl TwoDays {
    async fn open(once_per: OncePer, windows: [[i64; 2]; 2]) -> Self {
        let (server, world) = ScriptWorld::start(Start::new(5, once_per, 0)).await;
        let next = world.redis.keys(CouponId(1), NEXT);
        ask::<bool>(&server, &["COPY", &world.keys.meta, &next.meta]).await;
        ask::<()>(&server, &["SET", &next.count, "0"]).await;
        let days = Self {
            server,
            world,
            next,
        };
        days.move_to(windows).await;
        days
    }

    async fn now_ms(&self) -> i64 {
        let (seconds, micros): (i64, i64) = ask(&self.server, &["TIME"]).await;
        seconds * 1_000 + micros / 1_000
    }

    /// Sets the windows, in milliseconds from now.
    async fn move_to(&self, windows: [[i64; 2]; 2]) {
        let now = self.now_ms().await;
        for (keys, window) in [&self.world.keys, &self.next].into_iter().zip(windows) {
            let [opens, closes] = window.map(|ms| (now + ms).to_string());
            let set = [
                "HSET",
                &keys.meta,
                "opens_at_ms",
                &opens,
                "closes_at_ms",
                &closes,
            ];
            ask::<i64>(&self.server, &set).await;
        }
    }

    async fn forget(&self, keys: &DropKeys) {
        ask::<i64>(&self.server, &["DEL", &keys.meta]).await;
    }

    /// Gives a user a slot of the first drop, as if admitted this many milliseconds ago.
    async fn holds(&self, user: &str, slot: u32, ago: i64) {
        let slot = slot.to_string();
        let keys = &self.world.keys;
        let at = (self.now_ms().await - ago).to_string();
        ask::<i64>(&self.server, &["ZADD", &keys.users, &slot, user]).await;
        ask::<i64>(&self.server, &["HSET", &keys.times, &slot, &at]).await;
        ask::<()>(&self.server, &["SET", &keys.count, &slot]).await;
    }

    /// Returns the results and the open drop. Checks that the order of the candidates does not
    /// matter: a caller may name the wrong drop first, because an operator moved the windows or the
    /// caller's clock is wrong.
    async fn claim(&self, people: &str) -> (Vec<Admission>, Option<DropId>) {
        let keys = &self.world.keys;
        let [one, other] =
            [[keys, &self.next], [&self.next, keys]].map(|[first, second]| Candidates {
                first,
                second: Some(second),
            });
        let replies = self.world.claim_among(one, people).await.unwrap();
        let again = self.world.claim_among(other, people).await.unwrap();
        let open = replies[0].open_drop;
        assert!(
            replies
                .iter()
                .chain(&again)
                .all(|one| one.open_drop == open)
        );
        let answers = replies.into_iter().zip(again).map(|(reply, again)| {
            match (reply.admission, open) {
                (Admission::Accepted(slot), Some(drop)) => {
                    assert_eq!(again.admission, Admission::Already(drop, slot));
                }
                (answer, _) => assert_eq!(again.admission, answer),
            }
            reply.admission
        });
        (answers.collect(), open)
    }
}

fn opens_at(admission: Admission) -> i64 {
    match admission {
        Admission::NotOpen(at) => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn open_drop_admits_and_its_neighbour_stays_unchanged() {
    let days = TwoDays::open(OncePer::Drop, FIRST_IS_OPEN).await;
    let dump = async |keys: &DropKeys| {
        let mut all = Vec::new();
        for key in keys.own() {
            all.push(ask::<Option<Vec<u8>>>(&days.server, &["DUMP", key]).await);
        }
        all
    };
    let before = dump(&days.next).await;
    let accepted = vec![Admission::Accepted(1), Admission::Accepted(2)];
    assert_eq!(days.claim("ab").await, (accepted.clone(), Some(DROP)));
    assert_eq!(dump(&days.next).await, before);
    days.move_to(LONG_AFTER_MIDNIGHT).await;
    let before = dump(&days.world.keys).await;
    assert_eq!(days.claim("ab").await, (accepted, Some(NEXT)));
    assert_eq!(dump(&days.world.keys).await, before);
}

#[tokio::test]
async fn without_an_open_window_holders_get_their_slot_and_others_the_reason() {
    let days = TwoDays::open(OncePer::Drop, BETWEEN).await;
    days.holds("a", 1, 90_000).await;
    let (answers, open) = days.claim("ab").await;
    assert_eq!((answers[0], open), (Admission::Already(DROP, 1), None));
    assert!(opens_at(answers[1]) > days.now_ms().await);
    days.move_to(OVER).await;
    let (answers, open) = days.claim("ab").await;
    assert_eq!((answers[0], open), (Admission::Already(DROP, 1), None));
    assert!(matches!(answers[1], Admission::Closed(_)), "{answers:?}");
    days.move_to([[MINUTE, 2 * MINUTE], [2 * MINUTE, 3 * MINUTE]])
        .await;
    let (answers, open) = days.claim("b").await;
    assert!(opens_at(answers[0]) <= days.now_ms().await + MINUTE);
    assert_eq!(open, None);
}

#[tokio::test]
async fn retry_after_midnight_finds_its_claim_and_other_holders_get_a_new_slot() {
    let days = TwoDays::open(OncePer::Drop, JUST_AFTER_MIDNIGHT).await;
    days.holds("a", 1, 5_000).await;
    days.holds("b", 2, 30_000).await;
    days.holds("c", 3, 5_000).await;
    let void = ["HSET", &days.world.keys.revoked, "3:c", "1"];
    ask::<i64>(&days.server, &void).await;
    let expected = vec![
        Admission::Already(DROP, 1),
        Admission::Accepted(1),
        Admission::Accepted(2),
        Admission::Accepted(3),
    ];
    assert_eq!(days.claim("abcd").await, (expected, Some(NEXT)));
    let keys = &days.world.keys;
    let at = (days.now_ms().await - 15_100).to_string();
    ask::<i64>(&days.server, &["HSET", &keys.times, "1", &at]).await;
    let expected = vec![Admission::Accepted(4)];
    assert_eq!(days.claim("a").await, (expected, Some(NEXT)), "no retry");
}

#[tokio::test]
async fn a_holder_revoked_between_windows_does_not_get_the_old_slot() {
    let days = TwoDays::open(OncePer::Drop, BETWEEN).await;
    days.holds("a", 1, 90_000).await;
    let void = ["HSET", &days.world.keys.revoked, "3:a", "1"];
    ask::<i64>(&days.server, &void).await;
    let (answers, _) = days.claim("a").await;
    assert!(matches!(answers[0], Admission::NotOpen(_)), "{answers:?}");
}

#[tokio::test]
async fn drop_without_meta_is_unloaded_unless_its_neighbour_is_open() {
    let days = TwoDays::open(OncePer::Drop, FIRST_IS_OPEN).await;
    days.holds("a", 1, 5_000).await;
    days.forget(&days.world.keys).await;
    let unloaded = vec![Admission::Unloaded(DROP); 2];
    assert_eq!(days.claim("ab").await, (unloaded, None), "it may be open");
    // The neighbour is open by its own window.
    days.move_to(LONG_AFTER_MIDNIGHT).await;
    days.forget(&days.world.keys).await;
    let accepted = vec![Admission::Accepted(1)];
    assert_eq!(days.claim("b").await, (accepted, Some(NEXT)));

    let days = TwoDays::open(OncePer::Drop, BETWEEN).await;
    days.holds("a", 1, 90_000).await;
    days.forget(&days.next).await;
    let expected = vec![Admission::Already(DROP, 1), Admission::Unloaded(NEXT)];
    assert_eq!(days.claim("ab").await, (expected, None));
}

#[tokio::test]
async fn pause_and_restriction_apply_only_to_the_chosen_drop() {
    let days = TwoDays::open(OncePer::Drop, LONG_AFTER_MIDNIGHT).await;
    let first = &days.world.keys;
    let set = ["HSET", &first.meta, "paused", "1", "allow", "list"];
    ask::<i64>(&days.server, &set).await;
    let accepted = vec![Admission::Accepted(1)];
    assert_eq!(days.claim("a").await, (accepted, Some(NEXT)));
    let set = ["HSET", &days.next.meta, "paused", "1"];
    ask::<i64>(&days.server, &set).await;
    assert_eq!(days.claim("b").await.0, [Admission::Paused]);
}

#[tokio::test]
async fn once_per_coupon_holder_keeps_the_slot_in_all_later_windows() {
    let days = TwoDays::open(OncePer::Coupon, FIRST_IS_OPEN).await;
    let accepted = vec![Admission::Accepted(1)];
    assert_eq!(days.claim("a").await, (accepted, Some(DROP)));
    for windows in [JUST_AFTER_MIDNIGHT, LONG_AFTER_MIDNIGHT, BETWEEN, OVER] {
        days.move_to(windows).await;
        let (answers, _) = days.claim("a").await;
        assert_eq!(answers, [Admission::Already(DROP, 1)], "{windows:?}");
    }
    ask::<i64>(&days.server, &["HSET", &days.world.keys.revoked, "a", "1"]).await;
    assert_eq!(days.claim("a").await.0, [Admission::Revoked]);
}

/// The API publishes the claim again, with this time.
#[tokio::test]
async fn repeated_claim_of_an_earlier_window_has_the_time_of_its_admission() {
    let days = TwoDays::open(OncePer::Coupon, FIRST_IS_OPEN).await;
    days.claim("a").await;
    let given = ["HGET", &days.world.keys.times, "1"];
    let given: Option<i64> = ask(&days.server, &given).await;
    assert!(given.is_some());
    let other = ["HSET", &days.world.keys.claimants, "b", "99:1"];
    ask::<i64>(&days.server, &other).await;
    let [first, next] = [&days.world.keys, &days.next];
    for windows in [JUST_AFTER_MIDNIGHT, LONG_AFTER_MIDNIGHT, BETWEEN, OVER] {
        days.move_to(windows).await;
        for [first, second] in [[first, next], [next, first]] {
            let second = Some(second);
            let candidates = Candidates { first, second };
            let replies = days.world.claim_among(candidates, "ab").await.unwrap();
            let times: Vec<_> = replies.iter().map(|one| one.admitted_at_ms).collect();
            assert_eq!(times, [given, None], "{windows:?}");
        }
    }
}
