//! One case a row: what M, R, M' and R' show, and what the page needs.

use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::revoked::{Revocation, Revocations};

use super::super::*;
use super::loaded;
use crate::report::Kind;

const DROP: DropId = DropId(7);

fn name(user: &str) -> UserId {
    user.parse().unwrap()
}

fn row(slot: Slot, user: &str) -> Row {
    Row {
        slot,
        user: name(user),
        at_ms: Some(100),
    }
}

fn holder(slot: i64, user: &str) -> Holder {
    Holder {
        slot,
        user: name(user),
        at_ms: Some(100),
    }
}

/// A page on which nothing differs: users a, b and c on the slots 1 to 3, slot 4 free.
struct Case {
    moment: Moment,
    mysql: MysqlPage,
    redis: RedisPage,
    again: Recheck,
}

impl Case {
    fn clean() -> Self {
        let rows: Vec<Row> = vec![row(1, "a"), row(2, "b"), row(3, "c")];
        let users: Vec<Holder> = vec![holder(1, "a"), holder(2, "b"), holder(3, "c")];
        Self {
            moment: Moment {
                drop: DROP,
                once_per: OncePer::Drop,
                is_closed: false,
                clock_ms: 1_000,
                is_read: true,
                deadline_ms: 500,
                overdue_ms: 60_000,
            },
            mysql: MysqlPage {
                rows,
                letters: Vec::new(),
            },
            redis: RedisPage {
                from: 1,
                to: None,
                count: 4,
                users,
                free: vec![4],
                odd: 0,
            },
            again: Recheck {
                quantity: 10,
                ..Recheck::default()
            },
        }
    }

    /// Judges, with M' as M and R' as R on the doubts, unless the case has others.
    fn judge(mut self, change: impl FnOnce(&mut Recheck)) -> Judgement {
        let doubts = doubts(&self.mysql, &self.redis);
        let is_asked =
            |slot: i64| Slot::try_from(slot).is_ok_and(|slot| doubts.slots.contains(&slot));
        self.again.rows = self
            .mysql
            .rows
            .iter()
            .filter(|row| doubts.slots.contains(&row.slot))
            .cloned()
            .collect();
        self.again.holders = self
            .redis
            .users
            .iter()
            .filter(|it| is_asked(it.slot))
            .cloned()
            .collect();
        for row in &self.mysql.rows {
            self.again
                .rows_of_users
                .entry(row.user.clone())
                .or_default()
                .push((DROP, row.clone()));
        }
        self.again.open_letters = self.mysql.letters.iter().map(|letter| letter.id).collect();
        change(&mut self.again);
        judge(&self.moment, &self.mysql, &self.redis, &self.again)
    }

    fn with(change: impl FnOnce(&mut Self)) -> Judgement {
        let mut case = Self::clean();
        change(&mut case);
        case.judge(|_| {})
    }
}

fn kinds(judged: &Judgement) -> Vec<(Kind, Option<i64>, bool)> {
    judged
        .dirt
        .iter()
        .map(|dirt| (dirt.kind, dirt.slot, dirt.owes))
        .collect()
}

fn revoked(user: &str, again_from_ms: Option<i64>) -> Revocations {
    let at = |ms| {
        chrono::DateTime::from_timestamp_millis(ms)
            .unwrap()
            .naive_utc()
    };
    let one = Revocation {
        id: 1,
        coupon_id: 1,
        drop_id: DROP.0,
        slot: None,
        user_id: user.to_owned(),
        reason: String::new(),
        revoked_by: String::new(),
        may_claim_again: again_from_ms.is_some(),
        revoked_at: at(0),
        again_from: again_from_ms.map(at),
    };
    Revocations::new(vec![one], OncePer::Drop, DROP)
}

#[test]
fn clean_page_needs_nothing_and_is_recognized_at_once() {
    let case = Case::clean();
    assert!(is_clean(&case.mysql, &case.redis));
    assert_eq!(doubts(&case.mysql, &case.redis), Doubts::default());
    assert_eq!(case.judge(|_| {}), Judgement::default());
    for change in [
        (|it: &mut Case| it.redis.count = 5) as fn(&mut Case),
        |it| it.redis.count = 3,
        |it| it.redis.free = vec![3],
        |it| it.redis.odd = 1,
        |it| it.redis.users.swap(0, 1),
        |it| drop(it.mysql.rows.pop()),
        |it| drop(it.redis.users.pop()),
    ] {
        let mut case = Case::clean();
        change(&mut case);
        assert!(!is_clean(&case.mysql, &case.redis));
    }
}

#[test]
fn row_without_its_user_is_a_missing_admission_or_a_conflict() {
    let judged = Case::with(|it| {
        it.redis.users.remove(1);
        it.redis.free = vec![2, 4];
    });
    assert_eq!(kinds(&judged), [(Kind::MissingAdmission, Some(2), false)]);
    assert!(!judged.dirt[0].takes, "nobody loses a slot");
    let judged = Case::with(|it| it.redis.users[1] = holder(2, "x"));
    let conflict = (Kind::SlotConflict, Some(2));
    assert_eq!(
        kinds(&judged),
        [
            (conflict.0, conflict.1, false),
            (conflict.0, conflict.1, true)
        ]
    );
    assert!(judged.rows.is_empty(), "the slot has a row");
}

#[test]
fn counters_that_do_not_add_up_are_dirty() {
    for change in [
        (|it: &mut Case| it.redis.count = 5) as fn(&mut Case),
        |it| it.redis.count = 2,
        |it| it.redis.free = Vec::new(),
        |it| it.redis.free = vec![3, 4],
        |it| it.redis.odd = 1,
    ] {
        let judged = Case::with(change);
        assert!(
            judged
                .dirt
                .iter()
                .any(|dirt| dirt.kind == Kind::CountMismatch),
            "{judged:?}"
        );
        assert!(judged.dirt.iter().all(|dirt| !dirt.takes));
    }
}

#[test]
fn user_without_row_gets_it_when_no_message_can_be_unread() {
    let due = |change: fn(&mut Moment)| {
        let judged = Case::with(|it| {
            it.mysql.rows.pop();
            change(&mut it.moment);
        });
        assert!(judged.dirt.is_empty());
        (judged.rows.len(), judged.in_flight)
    };
    assert_eq!(due(|_| {}), (1, 0));
    assert_eq!(due(|it| it.is_read = false), (0, 1));
    assert_eq!(
        due(|it| it.clock_ms = 500),
        (0, 1),
        "younger than the deadline"
    );
    assert_eq!(
        due(|it| (it.is_read, it.clock_ms) = (false, 70_000)),
        (1, 0),
        "overdue"
    );
    assert_eq!(
        due(|it| (it.is_read, it.clock_ms, it.is_closed) = (false, 0, true)),
        (1, 0)
    );
}

#[test]
fn users_beyond_the_schema_are_owed() {
    let judged = Case::with(|it| {
        it.mysql.rows.pop();
        it.again.quantity = 2;
    });
    assert_eq!(kinds(&judged), [(Kind::OverAdmitted, Some(3), true)]);
    let mut case = Case::clean();
    case.mysql.rows.pop();
    let judged = case.judge(|again| {
        let other = (DropId(6), row(9, "c"));
        again.rows_of_users.insert(name("c"), vec![other]);
    });
    assert_eq!(
        kinds(&judged),
        [(Kind::OverAdmitted, Some(3), false)],
        "holds the other one"
    );
    let judged = Case::with(|it| {
        it.mysql.rows.pop();
        it.redis.users.push(holder(3, "d"));
    });
    assert_eq!(
        judged.rows.iter().map(|due| due.slot).collect::<Vec<_>>(),
        [3],
        "one of the two"
    );
    assert_eq!(kinds(&judged), [(Kind::SlotConflict, Some(3), true)]);
}

#[test]
fn revoked_claims_are_released_and_never_dirty() {
    for (again_from, is_void) in [(None, true), (Some(100), true), (Some(99), false)] {
        let mut case = Case::clean();
        case.mysql.rows.pop();
        let judged = case.judge(|again| again.revocations = revoked("c", again_from));
        assert_eq!(
            (judged.revoked.len(), judged.rows.len()),
            (usize::from(is_void), usize::from(!is_void))
        );
        // A row that a revocation voids, written by hand.
        let mut case = Case::clean();
        case.redis.users.pop();
        case.redis.free = vec![3, 4];
        let judged = case.judge(|again| again.revocations = revoked("c", again_from));
        assert_eq!(
            (judged.revoked.len(), judged.dirt.len()),
            (usize::from(is_void), usize::from(!is_void))
        );
    }
}

#[test]
fn dead_letter_ends_by_what_the_stores_show() {
    let letter = |slot, user: Option<&str>| Letter {
        id: 1,
        slot: Some(slot),
        user: user.map(name),
        at_ms: Some(100),
        fault: None,
    };
    let end = |slot, user: Option<&str>, change: fn(&mut Case)| {
        let judged = Case::with(|it| {
            it.mysql.letters = vec![letter(slot, user)];
            change(it);
        });
        (
            judged.letters.into_iter().next().map(|(_, end)| end),
            judged.rows.len(),
            judged.dirt.len(),
        )
    };
    let left = |why| Some(LetterEnd::Left(why));
    assert_eq!(
        end(5, Some("a"), |_| {}),
        (Some(LetterEnd::Duplicate), 0, 0)
    );
    assert_eq!(end(5, None, |_| {}), (left("it names no user"), 0, 0));
    assert_eq!(
        end(50, Some("z"), |_| {}),
        (left("the drop has no such slot"), 0, 0)
    );
    let owed = LetterEnd::Owed {
        user: name("z"),
        slot: 2,
    };
    assert_eq!(end(2, Some("z"), |_| {}), (Some(owed), 0, 0));
    // Redis agrees: a row at once, however young it is.
    let young = |it: &mut Case| {
        it.mysql.rows.pop();
        it.moment.is_read = false;
    };
    assert_eq!(end(3, Some("c"), young), (None, 1, 0));
    // A vacant slot at an open gate may be given to somebody else at this moment.
    assert_eq!(end(4, Some("z"), |_| {}), (None, 0, 1));
    assert_eq!(
        end(4, Some("z"), |it| it.moment.is_closed = true),
        (None, 1, 0)
    );
    let fault = |it: &mut Case| it.mysql.letters[0].fault = Some("outside");
    assert_eq!(end(4, Some("z"), fault), (left("outside"), 0, 0));
    // At a closed gate it precedes a user whom only Redis names.
    let judged = Case::with(|it| {
        it.mysql.rows.pop();
        it.moment.is_closed = true;
        it.mysql.letters = vec![letter(3, Some("z"))];
    });
    assert_eq!(
        judged
            .rows
            .iter()
            .map(|due| due.user.as_str())
            .collect::<Vec<_>>(),
        ["z"]
    );
}

#[test]
fn drop_is_loaded_only_if_nothing_was_ever_written_about_it() {
    let kind = |seen: &DropState, is_new| match judge_whole(seen, is_new) {
        WholeDrop::Dirty(dirt) => Some(dirt.kind),
        WholeDrop::NotLoaded | WholeDrop::Whole => None,
    };
    let none = DropState::default();
    assert_eq!(judge_whole(&none, true), WholeDrop::NotLoaded);
    assert_eq!(kind(&none, false), Some(Kind::RedisLost));
    assert_eq!(judge_whole(&loaded(Some(3), 2, 1), false), WholeDrop::Whole);
    let unreadable = DropState {
        unreadable: vec!["users"],
        ..loaded(Some(3), 2, 1)
    };
    let without_settings = DropState {
        meta: None,
        ..loaded(Some(3), 2, 1)
    };
    for (seen, found) in [
        (loaded(None, 2, 1), Kind::RedisLost),
        (loaded(Some(3), 0, 1), Kind::RedisLost),
        (loaded(Some(4), 2, 1), Kind::CountMismatch),
        (unreadable, Kind::CountMismatch),
        (without_settings, Kind::RedisLost),
    ] {
        assert_eq!(kind(&seen, false), Some(found));
    }
}

#[test]
fn doubts_name_both_sides_of_a_difference() {
    let mut case = Case::clean();
    case.redis.users[1] = holder(2, "x");
    let found = doubts(&case.mysql, &case.redis);
    assert_eq!(found.slots, [2].into());
    assert_eq!(found.users, [name("b"), name("x")].into());
}

proptest::proptest! {
    /// [`is_clean`] is a shortcut: whatever it accepts, the whole comparison accepts as well.
    #[test]
    fn shortcut_for_consistent_pages_agrees_with_full_comparison(
        rows in proptest::collection::btree_map(1_u32..5, 0_usize..4, 0..4),
        users in proptest::collection::btree_map(1_i64..5, 0_usize..4, 0..4),
        is_same in proptest::bool::ANY,
        free in proptest::collection::btree_set(1_i64..5, 0..3),
        count in 0_i64..6,
    ) {
        let names = ["a", "b", "c", "d"];
        let mut case = Case::clean();
        let users = if is_same {
            rows.iter().map(|(slot, user)| (i64::from(*slot), *user)).collect()
        } else {
            users
        };
        case.mysql.rows = rows.iter().map(|(slot, user)| row(*slot, names[*user])).collect();
        case.redis.users = users.iter().map(|(slot, user)| holder(*slot, names[*user])).collect();
        case.redis.free = free.into_iter().collect();
        case.redis.count = count;
        case.again.rows = case.mysql.rows.clone();
        case.again.holders = case.redis.users.clone();
        let judged = judge(&case.moment, &case.mysql, &case.redis, &case.again);
        let differs = doubts(&case.mysql, &case.redis) != Doubts::default() || !judged.dirt.is_empty();
        proptest::prop_assert!(!(is_clean(&case.mysql, &case.redis) && differs));
    }
}
