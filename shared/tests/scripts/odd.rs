//! What a hand may put into a drop's keys, with numbers that add up all the same.

use firstcome_shared::domain::OncePer;
use firstcome_stack::{RedisOptions, RedisServer};

use crate::command::{ScriptCommand, Start};
use crate::promotion::ask;
use crate::world::ScriptWorld;

#[tokio::test]
async fn what_is_no_slot_or_place_is_told_to_nobody_and_takes_none_from_anybody() {
    let options = RedisOptions { appendonly: false, ..RedisOptions::default() };
    let server = RedisServer::start(options).await.unwrap();
    let start = Start { quantity: 2, waiting_list: 9, once_per: OncePer::Coupon };
    for (coupon, commands, claims) in [
        (1, &["ZADD users 1.5 a", "SET count 1"][..], &[("a", "Unverified"), ("b", "Accepted(2)")][..]),
        (2, &["ZADD free 0.5 0.5", "SET count 1"], &[("b", "Unverified")]),
        (3, &["ZADD free -3 -3", "SET count 1"], &[("b", "Unverified")]),
        (4, &["SET times x"], &[("b", "Accepted(1)"), ("b", "Already(DropId(3), 1)")]),
        (
            5,
            &["ZADD waiting inf x 1e300 y 5 z"],
            &[("c", "Waiting(4)"), ("b", "Waiting(5)"), ("c", "Waiting(2)"), ("b", "Waiting(3)")],
        ),
    ] {
        let mut world = ScriptWorld::open(&server.url(), coupon, &start).await;
        for command in commands {
            let mut words: Vec<&str> = command.split(' ').collect();
            words[1] = world.keys.own().into_iter().find(|key| key.rsplit(':').next() == Some(words[1])).unwrap();
            ask::<firstcome_shared::redis::Value>(&server, &words).await;
        }
        for (person, expected) in claims {
            let people = person.chars().collect();
            assert_eq!(world.apply(&ScriptCommand::Claim(people)).await.0, format!("[{expected}]"), "{commands:?}");
        }
    }
}
