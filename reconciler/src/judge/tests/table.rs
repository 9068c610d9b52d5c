//! Table of cases: what M, R, M' and R' show, and what the page needs.

use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::model::{OwedUser, Revocations};

use super::super::*;
use super::{loaded, revocation};
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
                is_closed: false,
                clock_ms: 1_000,
                is_read: true,
                deadline_ms: 500,
                overdue_ms: 60_000,
                is_unattended: false,
            },
            mysql: MysqlPage {
                rows,
                letters: Vec::new(),
            },
            redis: RedisPage {
                from: 1,
                count: Some(4),
                users,
                free: vec![4],
                ..RedisPage::default()
            },
            again: Recheck {
                quantity: 10,
                ..Recheck::default()
            },
        }
    }

    /// Judges, with M' as M and R' as R on the doubts, except for what `change` sets.
    fn judge(mut self, change: impl FnOnce(&mut Recheck)) -> Judgement {
        let doubts = doubts(&self.mysql, &self.redis, self.again.quantity);
        let is_asked =
            |slot: i64| Slot::try_from(slot).is_ok_and(|slot| doubts.slots.contains(&slot));
        let rows = self.mysql.rows.iter();
        let asked = rows.filter(|row| doubts.slots.contains(&row.slot));
        self.again.rows = asked.cloned().collect();
        let users = self.redis.users.iter();
        self.again.holders = users.filter(|it| is_asked(it.slot)).cloned().collect();
        for row in &self.mysql.rows {
            let of_user = self.again.rows_of_users.entry(row.user.clone());
            of_user.or_default().push((DROP, row.clone()));
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
    let one = revocation(1, DROP.0, user, again_from_ms);
    Revocations::new(vec![one], OncePer::Drop, DROP)
}

#[test]
fn clean_page_needs_nothing_and_no_other_page_counts_as_clean() {
    let case = Case::clean();
    assert!(is_clean(&case.mysql, &case.redis, 10));
    assert_eq!(doubts(&case.mysql, &case.redis, 10), Doubts::default());
    assert_eq!(case.judge(|_| {}), Judgement::default());
    for change in [
        (|it: &mut Case| it.redis.count = Some(5)) as fn(&mut Case),
        |it| it.redis.count = Some(3),
        |it| it.redis.free = vec![3],
        |it| it.redis.odd = 1,
        |it| it.redis.users.swap(0, 1),
        |it| drop(it.mysql.rows.pop()),
        |it| drop(it.redis.users.pop()),
    ] {
        let mut case = Case::clean();
        change(&mut case);
        assert!(!is_clean(&case.mysql, &case.redis, 10));
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
    let conflict = |owes| (Kind::SlotConflict, Some(2), owes);
    assert_eq!(kinds(&judged), [conflict(false), conflict(true)]);
    assert!(judged.rows.is_empty(), "the slot has a row");
}

#[test]
fn rows_above_the_quantity_are_surplus_and_never_clean_nor_dirty_in_redis_or_not() {
    for is_in_redis in [false, true] {
        let mut case = Case::clean();
        case.again.quantity = 2;
        if !is_in_redis {
            case.redis.users.pop();
            case.redis.count = Some(2);
            case.redis.free.clear();
        }
        assert!(!is_clean(&case.mysql, &case.redis, 2));
        let judged = case.judge(|_| {});
        assert_eq!(judged.surplus, [row(3, "c")], "{is_in_redis}");
        assert_eq!(judged.dirt, [], "{is_in_redis}");
    }
    let raised = Case::with(|it| drop(it.redis.users.pop()));
    assert_eq!(raised.surplus, [], "M' has the raised quantity");
}

#[test]
fn counters_that_do_not_add_up_are_dirty() {
    for change in [
        (|it: &mut Case| it.redis.count = Some(5)) as fn(&mut Case),
        |it| it.redis.count = Some(2),
        |it| it.redis.free = Vec::new(),
        |it| it.redis.free = vec![3, 4],
        |it| it.redis.odd = 1,
    ] {
        let judged = Case::with(change);
        let mut kinds = judged.dirt.iter().map(|dirt| dirt.kind);
        assert!(kinds.any(|kind| kind == Kind::CountMismatch), "{judged:?}");
        assert!(judged.dirt.iter().all(|dirt| !dirt.takes));
    }
}

#[test]
fn user_without_a_row_gets_one_once_the_claim_is_due() {
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
    let younger_than_the_deadline = due(|it| it.clock_ms = 500);
    assert_eq!(younger_than_the_deadline, (0, 1));
    let waiting = due(|it| (it.is_read, it.clock_ms) = (false, 70_000));
    assert_eq!(waiting, (0, 1), "its consumer attends to the messages");
    let overdue = |it: &mut Moment| (it.is_read, it.is_unattended) = (false, true);
    assert_eq!(due(overdue), (0, 1), "too young");
    let overdue = |it: &mut Moment| {
        (it.is_read, it.is_unattended, it.clock_ms) = (false, true, 70_000);
    };
    assert_eq!(due(overdue), (1, 0));
    let closed = due(|it| (it.is_read, it.clock_ms, it.is_closed) = (false, 0, true));
    assert_eq!(closed, (1, 0));
}

#[test]
fn user_whom_the_schema_refuses_is_owed_a_slot_unless_another_row_exists() {
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
    let holds_the_other_one = [(Kind::OverAdmitted, Some(3), false)];
    assert_eq!(kinds(&judged), holds_the_other_one);
    let judged = Case::with(|it| {
        it.mysql.rows.pop();
        it.redis.users.push(holder(3, "d"));
    });
    assert_eq!(judged.rows.len(), 1, "one of the two: {judged:?}");
    assert_eq!(kinds(&judged), [(Kind::SlotConflict, Some(3), true)]);
}

#[test]
fn claims_that_a_revocation_voids_are_released_and_not_dirty_unlike_later_ones() {
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
fn end_of_a_dead_letter_depends_on_both_stores() {
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
    let user = name("z");
    let owed = Some(LetterEnd::Owed(OwedUser {
        user,
        slot: Some(2),
    }));
    let as_it_is: fn(&mut Case) = |_| {};
    let young: fn(&mut Case) = |it| {
        it.mysql.rows.pop();
        it.moment.is_read = false;
    };
    let closed: fn(&mut Case) = |it| it.moment.is_closed = true;
    let outside: fn(&mut Case) = |it| it.mysql.letters[0].fault = Some("outside");
    let duplicate = Some(LetterEnd::Duplicate);
    let no_slot = left("the drop has no such slot");
    // The slot, the user, and the end with the number of rows and of differences.
    for (slot, user, change, expected) in [
        (5, Some("a"), as_it_is, (duplicate, 0, 0)),
        (5, None, as_it_is, (left("it names no user"), 0, 0)),
        (50, Some("z"), as_it_is, (no_slot, 0, 0)),
        (2, Some("z"), as_it_is, (owed, 0, 0)),
        // Redis agrees: a row at once, however young it is.
        (3, Some("c"), young, (None, 1, 0)),
        // A vacant slot at an open gate may be given to somebody else at this moment.
        (4, Some("z"), as_it_is, (None, 0, 1)),
        (4, Some("z"), closed, (None, 1, 0)),
        (4, Some("z"), outside, (left("outside"), 0, 0)),
    ] {
        assert_eq!(end(slot, user, change), expected, "{slot} {user:?}");
    }
    // At a closed gate, a dead letter gets its slot before a user whom only Redis names.
    let judged = Case::with(|it| {
        it.mysql.rows.pop();
        it.moment.is_closed = true;
        it.mysql.letters = vec![letter(3, Some("z"))];
    });
    let users: Vec<_> = judged.rows.iter().map(|due| due.user.as_str()).collect();
    assert_eq!(users, ["z"]);
}

#[test]
fn state_of_a_drop_decides_whether_it_is_loaded_rebuilt_or_compared() {
    let kind = |seen: &LoadedDrop, is_new| match judge_whole(seen, is_new) {
        WholeDrop::Dirty(dirt) => Some(dirt.kind),
        WholeDrop::NotLoaded | WholeDrop::Whole => None,
    };
    let none = LoadedDrop::default();
    assert_eq!(judge_whole(&none, true), WholeDrop::NotLoaded);
    assert_eq!(kind(&none, false), Some(Kind::RedisLost));
    assert_eq!(judge_whole(&loaded(Some(3), 2, 1), false), WholeDrop::Whole);
    let unreadable = LoadedDrop {
        unreadable: vec!["users"],
        ..loaded(Some(3), 2, 1)
    };
    let without_settings = LoadedDrop {
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
fn doubts_contain_the_users_of_both_stores() {
    let mut case = Case::clean();
    case.redis.users[1] = holder(2, "x");
    let found = doubts(&case.mysql, &case.redis, 10);
    assert_eq!(found.slots, [2].into());
    assert_eq!(found.users, [name("b"), name("x")].into());
}

proptest::proptest! {
    /// [`is_clean`] is a shortcut: whatever it accepts, the whole comparison accepts as well.
    #[test]
    fn page_that_the_shortcut_accepts_has_no_difference(
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
        case.redis.count = Some(count);
        case.again.rows = case.mysql.rows.clone();
        case.again.holders = case.redis.users.clone();
        let judged = judge(&case.moment, &case.mysql, &case.redis, &case.again);
        let differs = doubts(&case.mysql, &case.redis, 10) != Doubts::default() || !judged.dirt.is_empty();
        proptest::prop_assert!(!(is_clean(&case.mysql, &case.redis, 10) && differs));
    }
}
