//! Every kind of repairable drift is injected deliberately. A dry run lists exactly that drift and
//! changes nothing, a pass repairs it, the next pass finds nothing, and a mail reports it.

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::{AffectedPerson, Drift, DriftStoreArgs, Injected, Injector};
use firstcome_testkit::{Fixture, MadeCoupon, WorldStores, assert_clean, assert_kept};

use crate::drift::support::{
    assert_settled, assert_whole, clean_pass, dry_run, dry_run_lists, expected, found, found_in,
    inject, mailed, pass_repairs, subjects,
};

/// The initial state, the injected drift, and the expected end.
pub(crate) struct DriftCase {
    pub(crate) drift: Drift,
    pub(crate) n: u32,
    /// The kind of finding that reports the drift.
    pub(crate) kind: Kind,
    /// Number of users before the drift. The quantity is 20.
    pub(crate) held: usize,
    /// Number of users after the repair.
    pub(crate) end: usize,
}

const QUANTITY: u32 = 20;

/// Injects each kind into a separate coupon. A dry run must list all, a pass repair them, the next
/// pass find nothing, and a mail report them.
pub(crate) async fn mend(fixture: &Fixture, cases: &[DriftCase]) -> Vec<(MadeCoupon, Injected)> {
    let world = &fixture.world;
    let mut made = Vec::new();
    let mut names = Vec::new();
    for case in cases {
        let name = format!("{} of {}", case.drift.name(), case.held);
        let (coupon, answers) = fixture.held(&name, QUANTITY, case.held).await;
        let done = inject(world, &coupon, case.drift, case.n).await;
        assert!(
            done.people.is_empty() || done.people.len() >= case.n as usize,
            "{done:?}"
        );
        made.push((coupon, answers, done));
        names.push(name);
    }
    let dry = dry_run(world).await;
    let run = world.pass().await;
    assert_eq!(
        (run.status, run.findings.len()),
        (Status::Repaired, 0),
        "{run:#?}"
    );
    assert!(
        run.all_findings()
            .all(|f| f.result == Outcome::Applied && !f.needs_person),
        "{run:#?}"
    );
    let clean = world.pass().await;
    for ((coupon, answers, done), case) in made.iter().zip(cases) {
        let expected = expected(case.kind, done);
        assert_eq!(found_in(&dry, coupon.drop), expected, "{dry:#?}");
        assert_eq!(found_in(&run, coupon.drop), expected, "{run:#?}");
        assert_settled(world, coupon, QUANTITY, case.end, answers).await;
        assert_clean(&clean, coupon);
    }
    let mail = match cases {
        [one] => {
            mailed(
                world,
                &[
                    "repaired",
                    &names[0],
                    &format!("{} of {QUANTITY} issued", one.end),
                ],
            )
            .await
        }
        many => {
            mailed(
                world,
                &["repaired", &format!("{0} drops of {0} coupons", many.len())],
            )
            .await
        }
    };
    // The mail may wrap a name.
    let text = mail.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        names.iter().all(|name| text.contains(name)),
        "{names:?}: {}",
        mail.text
    );
    world.mail.clear();
    made.into_iter()
        .map(|(coupon, _, done)| (coupon, done))
        .collect()
}

#[tokio::test]
async fn lost_and_unpublished_claims_are_issued() {
    let fixture = Fixture::new("d-unissued").await;
    let world = &fixture.world;
    let case = DriftCase {
        drift: Drift::Unissued,
        n: 3,
        kind: Kind::Unissued,
        held: 20,
        end: 20,
    };
    let (coupon, done) = mend(&fixture, &[case]).await.remove(0);
    let times = world.redis.of_drop(coupon.id, coupon.drop, "times");
    for AffectedPerson { slot, .. } in &done.people {
        let row = "SELECT issued_by, CAST(ROUND(UNIX_TIMESTAMP(claimed_at) * 1000) AS SIGNED) FROM issued_coupons";
        let row = world
            .sql
            .query(&format!(
                "{row} WHERE drop_id = {} AND slot = {slot}",
                coupon.drop
            ))
            .await;
        let admitted_at: String = world
            .redis
            .command(&["HGET", &times, &slot.to_string()])
            .await;
        assert_eq!(
            row,
            [["reconciler".to_owned(), admitted_at]],
            "the instant of admission is kept"
        );
    }
    mend(
        &fixture,
        &[DriftCase {
            drift: Drift::Unpublished,
            n: 2,
            kind: Kind::Unissued,
            held: 12,
            end: 14,
        }],
    )
    .await;
}

#[tokio::test]
async fn failed_claims_are_issued_resolved_as_duplicates_or_readmitted() {
    let fixture = Fixture::new("d-failed").await;
    let kind = Kind::FailedClaim;
    let cases = [
        DriftCase {
            drift: Drift::FailedClaim,
            n: 3,
            kind,
            held: 20,
            end: 20,
        },
        DriftCase {
            drift: Drift::FailedDuplicate,
            n: 2,
            kind,
            held: 20,
            end: 20,
        },
        DriftCase {
            drift: Drift::FailedSlotTaken,
            n: 2,
            kind,
            held: 12,
            end: 14,
        },
    ];
    mend(&fixture, &cases).await;
    let how = "SELECT resolution, COUNT(*) FROM failed_claims WHERE resolved_by_run IS NOT NULL GROUP BY 1 ORDER BY 1";
    let resolved = [["duplicate", "2"], ["issued", "3"], ["readmitted", "2"]];
    assert_eq!(fixture.world.sql.query(how).await, resolved);
}

#[tokio::test]
async fn a_counter_that_is_too_low_or_high_or_has_gaps_is_corrected() {
    let fixture = Fixture::new("d-count").await;
    let kind = Kind::CountMismatch;
    // This case is separate, because its user gets a row only once the admission is overdue.
    let gap = DriftCase {
        drift: Drift::CountGap,
        n: 2,
        kind,
        held: 12,
        end: 13,
    };
    let (coupon, _) = mend(&fixture, &[gap]).await.remove(0);
    for (user, slot) in [("u-101", 13), ("u-102", 14), ("u-103", 16)] {
        let answer = fixture.api.claim(coupon.id, user).await;
        assert_eq!(
            answer.promised(),
            Some((coupon.drop, slot)),
            "skipped slots are given out first"
        );
    }
    let cases = [
        DriftCase {
            drift: Drift::CountLower,
            n: 3,
            kind,
            held: 20,
            end: 20,
        },
        DriftCase {
            drift: Drift::CountLower,
            n: 3,
            kind,
            held: 12,
            end: 12,
        },
        DriftCase {
            drift: Drift::CountHigher,
            n: 3,
            kind,
            held: 20,
            end: 20,
        },
        DriftCase {
            drift: Drift::CountHigher,
            n: 3,
            kind,
            held: 12,
            end: 12,
        },
    ];
    mend(&fixture, &cases).await;
}

/// Users who are missing from Redis, on a wrong slot, on the same slot as another user, or above
/// the quantity, and drops that Redis has lost.
#[tokio::test]
async fn users_missing_or_misplaced_in_redis_get_the_slots_of_their_rows_or_free_ones() {
    let fixture = Fixture::new("d-wrong").await;
    let case = |drift, n, kind, held, end| DriftCase {
        drift,
        n,
        kind,
        held,
        end,
    };
    let missing = Kind::MissingAdmission;
    let cases = [
        case(Drift::MissingAdmission, 3, missing, 20, 20),
        case(Drift::MissingClaimants, 3, missing, 20, 20),
        case(Drift::MissingMoved, 2, missing, 12, 12),
        case(Drift::ConflictMoved, 2, missing, 20, 20),
        case(Drift::ConflictMoved, 2, missing, 12, 12),
        case(Drift::ConflictExchanged, 2, missing, 20, 20),
        case(Drift::SlotConflict, 2, Kind::SlotConflict, 12, 14),
        case(Drift::OverAdmitted, 2, Kind::OverAdmitted, 12, 14),
        case(Drift::RedisLost, 1, Kind::RedisLost, 20, 20),
        case(Drift::RedisLost, 1, Kind::RedisLost, 12, 12),
    ];
    // A mail names only a few drops.
    for some in cases.chunks(5) {
        mend(&fixture, some).await;
    }
}

#[tokio::test]
async fn a_user_in_two_drops_of_a_one_per_user_coupon_keeps_the_slot_with_the_row() {
    let fixture = Fixture::new("d-two-drops").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Daily", 20, 12).await;
    // A second opening, inserted manually and loaded by the next pass.
    let second = format!(
        "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES (1, {}, '2026-02-01 00:00:00', 20)",
        coupon.id
    );
    world.sql.query(&second).await;
    world.pass().await;
    let drop = 1;
    let second = MadeCoupon {
        drop,
        ..coupon.clone()
    };
    assert_eq!(
        fixture.api.claim(coupon.id, "u-first").await.promised(),
        Some((drop, 1))
    );
    firstcome_testkit::all_issued(world, drop, 1).await;

    let done = inject(world, &second, Drift::OverTwoDrops, 3).await;
    let expected = expected(Kind::OverAdmitted, &done);
    dry_run_lists(world, &expected).await;
    pass_repairs(world, &expected).await;
    assert_whole(world, &coupon, QUANTITY, 12).await;
    assert_whole(world, &second, QUANTITY, 1).await;
    assert_kept(world, &coupon, &answers, &[]).await;
    clean_pass(world, &second).await;
    mailed(world, &["repaired", "Daily", "1 of 20 issued"]).await;
}

#[tokio::test]
async fn drift_is_injected_into_the_newest_drop_with_rows_by_default() {
    let fixture = Fixture::new("d-newest").await;
    let api = &fixture.api;
    let stores = DriftStoreArgs::of(|name| fixture.world.find_setting(name)).unwrap();
    let chosen = async |coupon: Option<i64>| {
        let (coupon, drop) = Injector::new(&stores, coupon, None).await.unwrap().target();
        (coupon.0, drop.0)
    };
    let of = |coupon: &MadeCoupon| (coupon.id, coupon.drop);
    let first = api.open_coupon(20).await;
    let empty = api.open_coupon(20).await;
    assert_eq!(chosen(None).await, of(&empty), "no drop has rows");
    let (held, _) = fixture.held("Held", 20, 12).await;
    let empty_again = api.open_coupon(20).await;
    assert_eq!(chosen(None).await, of(&held));
    assert_eq!(chosen(Some(first.id)).await, of(&first));
    assert_eq!(chosen(Some(empty_again.id)).await, of(&empty_again));
}

#[tokio::test]
async fn admission_reopens_after_redis_loses_everything_or_its_gates() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(WorldStores::shared().await.with_redis(&redis), "d-flushed").await;
    let api = &fixture.api;
    let world = &fixture.world;
    for drift in [Drift::RedisFlushed, Drift::RedisGate] {
        let name = drift.name();
        let (coupon, answers) = fixture.held(&name, 20, 12).await;
        inject(world, &coupon, drift, 1).await;
        assert!(
            api.claim(coupon.id, "u-late").await.is("unavailable"),
            "admission is closed until a pass has verified Redis"
        );
        let dry = dry_run(world).await;
        assert!(
            !found(&dry).is_empty()
                && found(&dry)
                    .keys()
                    .all(|(kind, ..)| *kind == Kind::RedisLost),
            "{dry:#?}"
        );
        assert!(
            api.claim(coupon.id, "u-late").await.is("unavailable"),
            "a dry run opens nothing"
        );
        let run = world.pass().await;
        assert_eq!(
            found(&run).keys().collect::<Vec<_>>(),
            found(&dry).keys().collect::<Vec<_>>()
        );
        assert_eq!(run.status, Status::Repaired, "{run:#?}");
        assert_settled(world, &coupon, QUANTITY, 12, &answers).await;
        assert_eq!(
            api.claim(coupon.id, "u-late").await.promised(),
            Some((coupon.drop, 13))
        );
        firstcome_testkit::all_issued(world, coupon.drop, 13).await;
        clean_pass(world, &coupon).await;
        // The mail about the reopening is only sent if admission was closed for long.
        match drift {
            Drift::RedisFlushed => drop(mailed(world, &["repaired"]).await),
            _ => assert_eq!(subjects(world), [""; 0]),
        }
        world.mail.clear();
    }
}

#[tokio::test]
async fn users_left_only_in_the_list_of_claimants_get_their_slots_and_rows_back() {
    let fixture = Fixture::new("d-claimants").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Half forgotten", 20, 20).await;
    let done = inject(world, &coupon, Drift::Unissued, 3).await;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    for hit in &done.people {
        world
            .redis
            .command::<i64>(&["ZREM", &users, &hit.user])
            .await;
    }
    let mut both = expected(Kind::Unissued, &done);
    both.extend(expected(Kind::MissingAdmission, &done));
    dry_run_lists(world, &both).await;
    pass_repairs(world, &both).await;
    assert_settled(world, &coupon, QUANTITY, 20, &answers).await;
    clean_pass(world, &coupon).await;
}
