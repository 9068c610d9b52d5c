//! Deletes one whole key of a coupon, in each state of a drop; then users claim, and waiting users
//! are promoted. No user gets a slot that contradicts a row: a second slot, the slot of another
//! user, a slot above the quantity, or any slot for a user who is revoked or not on the list.

use std::collections::BTreeMap;

use firstcome_shared::coupon::AllowList;
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::redis::admission::{Admission, AdmissionError, Candidates};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::settings::Written;
use firstcome_stack::RedisServer;

use crate::command::Start;
use crate::gate::ask;
use crate::world::{DROP, ScriptWorld, server};

const NEXT: DropId = DropId(4);

const QUANTITY: u32 = 4;

const MINUTE: i64 = 60_000;

/// The states of the drop that is claimed.
#[derive(Debug, Clone, Copy)]
enum State {
    Empty,
    Begun,
    Full,
    /// Full, with users who wait.
    Waiting,
    /// A slot was given back while users wait.
    Freed,
    Paused,
    /// Users hold slots of the first day, and the next day has opened.
    NextDay,
    NextDayBegun,
    /// Users hold slots of the first day, which has closed, and the next day has not opened.
    BetweenDays,
}

const STATES: [State; 9] = [
    State::Empty,
    State::Begun,
    State::Full,
    State::Waiting,
    State::Freed,
    State::Paused,
    State::NextDay,
    State::NextDayBegun,
    State::BetweenDays,
];

/// A coupon in one of the states, with its rows.
struct Case {
    world: ScriptWorld,
    /// The drop that is open or opens next.
    open: DropKeys,
    /// The drop of the day before, if there is one.
    other: Option<DropKeys>,
    rows: BTreeMap<(DropId, Slot), String>,
    once_per: OncePer,
}

/// A user who is revoked for good.
const REVOKED: &str = "r";
/// A user who is not on the list.
const UNLISTED: &str = "x";

impl Case {
    async fn new(
        server: &RedisServer,
        number: i64,
        state: State,
        once_per: OncePer,
        listed: bool,
    ) -> Self {
        let places = 3;
        let start = Start::new(QUANTITY, once_per, places);
        let world = ScriptWorld::open(&server.url(), number, &start).await;
        let (coupon, own) = (world.coupon, world.keys.clone());
        if listed {
            let users: Vec<UserId> = "abcdefgr"
                .chars()
                .map(|it| it.to_string().parse().unwrap())
                .collect();
            let list = AllowList {
                revision: 5,
                people: u32::try_from(users.len()).unwrap(),
            };
            let written = world.redis.write_allow_list(coupon, list, &users).await;
            assert_eq!(written.unwrap(), Written::Yes);
            ask::<i64>(server, &["HSET", &own.meta, "allow", "list"]).await;
        }
        world.revoke('r', 1, None).await;
        let mut case = Self {
            open: own.clone(),
            other: None,
            rows: BTreeMap::new(),
            once_per,
            world,
        };
        let holders = match state {
            State::Empty => "",
            State::Full | State::Waiting | State::Freed => "abcd",
            _ => "ab",
        };
        case.admit(holders).await;
        match state {
            State::Waiting | State::Freed => {
                case.claims("ef").await;
            }
            State::Paused => {
                ask::<i64>(server, &["HSET", &own.meta, "paused", "1"]).await;
            }
            State::NextDay | State::NextDayBegun | State::BetweenDays => {
                case.next_day(server, matches!(state, State::BetweenDays))
                    .await;
            }
            State::Empty | State::Begun | State::Full => {}
        }
        if matches!(state, State::Freed) {
            case.world.revoke('b', 2, None).await;
            case.rows.retain(|_, user| user != "b");
        }
        if matches!(state, State::NextDayBegun) {
            case.admit("c").await;
        }
        case
    }

    /// Closes the first day's drop, and lets the next day's open: a minute ago or, if `is_between`,
    /// in a minute.
    async fn next_day(&mut self, server: &RedisServer, is_between: bool) {
        let keys = &self.world.keys;
        let next = self.world.redis.keys(self.world.coupon, NEXT);
        ask::<bool>(server, &["COPY", &keys.meta, &next.meta]).await;
        ask::<()>(server, &["SET", &next.count, "0"]).await;
        let (seconds, _): (i64, i64) = ask(server, &["TIME"]).await;
        let opens = seconds * 1_000 + if is_between { MINUTE } else { -MINUTE };
        let closes = (seconds * 1_000 - MINUTE).to_string();
        ask::<i64>(server, &["HSET", &keys.meta, "closes_at_ms", &closes]).await;
        ask::<i64>(
            server,
            &["HSET", &next.meta, "opens_at_ms", &opens.to_string()],
        )
        .await;
        self.other = Some(keys.clone());
        self.open = next;
    }

    async fn claims(&self, people: &str) -> Vec<Admission> {
        let candidates = Candidates {
            first: &self.open,
            second: self.other.as_ref(),
        };
        match self.world.claim_among(candidates, people).await {
            Ok(admissions) => admissions,
            // The gate is lost.
            Err(AdmissionError::Closed) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Admits users, who get rows.
    async fn admit(&mut self, people: &str) {
        for user in people.chars() {
            let given = self.claims(&user.to_string()).await;
            let [Admission::Accepted(given)] = given[..] else {
                panic!("{user}: {given:?}");
            };
            let row = (self.open.drop, given.slot);
            self.rows.insert(row, user.to_string());
        }
    }

    /// Revocations of the first day count on the next one only if one coupon is allowed in total.
    fn is_revoked_in(&self, drop: DropId) -> bool {
        drop == DROP || self.once_per == OncePer::Coupon
    }

    /// Records an accepted claim as a row. Returns a description of what it contradicts.
    fn insert(&mut self, slot: Slot, user: &str) -> Option<String> {
        let drop = self.open.drop;
        let holds = |(of, holder): (&(DropId, Slot), &String)| {
            holder == user && (of.0 == drop || self.once_per == OncePer::Coupon)
        };
        let wrong = if self.rows.iter().any(holds) {
            "a second slot"
        } else if self.rows.contains_key(&(drop, slot)) {
            "the slot of another user"
        } else if !(1..=QUANTITY).contains(&slot) {
            "a slot above the quantity"
        } else if user == UNLISTED || user == REVOKED && self.is_revoked_in(drop) {
            "a slot for nobody"
        } else {
            self.rows.insert((drop, slot), user.to_owned());
            return None;
        };
        Some(format!("{user} got slot {slot}: {wrong}"))
    }

    /// Every user claims, alone and together, and the waiting list is served. Returns what
    /// contradicts a row.
    async fn play(&mut self, is_listed: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let strangers = if is_listed { "xr" } else { "r" };
        for people in ["a", "b", "c", "abcd", "fe", strangers, "g", "abcdefg"] {
            let given = self.claims(people).await;
            for (user, answer) in people.chars().zip(given) {
                if let Admission::Accepted(given) = answer {
                    wrong.extend(self.insert(given.slot, &user.to_string()));
                }
            }
        }
        let (keys, fence) = (self.open.clone(), self.world.fence.clone());
        if let Ok(Fenced::Done(given)) = self.world.redis.promote_waiting(&keys, &fence, 9).await {
            for one in given.given {
                wrong.extend(self.insert(one.slot, one.user.as_str()));
            }
        }
        wrong
    }
}

#[tokio::test]
async fn admission_never_contradicts_a_row_after_one_key_is_lost() {
    let server = server().await;
    let mut number = 0;
    let mut wrong = Vec::new();
    for state in STATES {
        for once_per in [OncePer::Coupon, OncePer::Drop] {
            for is_listed in [false, true] {
                // All keys of the coupon, and of both drops.
                for lost in 0..18 {
                    number += 1;
                    let mut case = Case::new(&server, number, state, once_per, is_listed).await;
                    let keys = &case.world.keys;
                    let coupon = [
                        &keys.gate,
                        &keys.revision,
                        &keys.claimants,
                        &keys.revoked,
                        &keys.allowed,
                        &keys.allow_list,
                    ];
                    let coupon = coupon.map(String::as_str);
                    let own = case.open.own();
                    let others = case.other.as_ref().map_or([""; 6], DropKeys::own);
                    let all = [coupon, own, others].concat();
                    let key = all[lost].to_owned();
                    if key.is_empty() {
                        continue;
                    }
                    ask::<i64>(&server, &["DEL", &key]).await;
                    let said = case.play(is_listed).await;
                    let place = format!("{state:?}, {once_per:?}, list {is_listed}, without {key}");
                    wrong.extend(said.into_iter().map(|said| format!("{place}: {said}")));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {number}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
