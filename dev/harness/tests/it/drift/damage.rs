//! Tables of damage, with the kinds of finding that report it and the state after the repair. A dry
//! run lists repairable damage and changes nothing, a pass repairs it, and the next pass finds
//! nothing. Other damage is listed until an operator acts.

use std::collections::BTreeMap;

use firstcome_harness::drift::Injected;
use firstcome_reconciler::report::{Outcome, Run};

use crate::drift::support::{assert_whole, clean_pass_of, dry_run, found_in};
use crate::prelude::*;

/// Damage to a drop with 20 slots, and its consequences.
pub(crate) struct Case {
    pub(crate) damage: Drift,
    pub(crate) n: u32,
    /// The kinds that may report the damage. At least one of them does. Which one depends on the
    /// difference that the pass sees first.
    pub(crate) kinds: &'static [Kind],
    /// Number of users who hold a coupon before the damage.
    pub(crate) held: usize,
    /// Number of users who hold a coupon after the repair.
    pub(crate) end: usize,
}

const QUANTITY: u32 = 20;

const fn case(damage: Drift, n: u32, kinds: &'static [Kind], held: usize, end: usize) -> Case {
    Case {
        damage,
        n,
        kinds,
        held,
        end,
    }
}

/// The kinds that report users who lose a slot to a row, and their promotion to free slots.
const OWED: &[Kind] = &[
    Kind::FailedClaim,
    Kind::SlotConflict,
    Kind::CountMismatch,
    Kind::BrokenPromise,
    Kind::Unfilled,
];

#[rustfmt::skip]
const REPAIRABLE: [Case; 17] = [
    case(Drift::Unissued, 3, &[Kind::Unissued], 20, 20),
    case(Drift::Unpublished, 2, &[Kind::Unissued], 12, 14),
    case(Drift::FailedClaim, 3, &[Kind::FailedClaim], 20, 20),
    case(Drift::FailedDuplicate, 2, &[Kind::FailedClaim], 20, 20),
    case(Drift::FailedSlotTaken, 2, OWED, 12, 14),
    case(Drift::MissingAdmission, 3, &[Kind::MissingAdmission, Kind::CountMismatch], 20, 20),
    case(Drift::MissingAdmission, 3, &[Kind::MissingAdmission, Kind::CountMismatch], 12, 12),
    // More users than a fifth of the quantity, but the repair limit is at least fifty.
    case(Drift::SlotConflict, 5, OWED, 12, 17),
    case(Drift::CountLower, 3, &[Kind::CountMismatch], 20, 20),
    case(Drift::CountLower, 3, &[Kind::CountMismatch], 12, 12),
    case(Drift::CountHigher, 3, &[Kind::CountMismatch], 20, 20),
    case(Drift::CountHigher, 3, &[Kind::CountMismatch], 12, 12),
    case(Drift::Revoked, 3, &[Kind::SettingsMismatch], 20, 17),
    case(Drift::Revoked, 3, &[Kind::SettingsMismatch], 12, 9),
    case(Drift::Unfilled, 2, &[Kind::Unfilled], 20, 20),
    case(Drift::RedisLost, 1, &[Kind::RedisLost], 20, 20),
    case(Drift::RedisLost, 1, &[Kind::RedisLost], 12, 12),
];

#[tokio::test]
async fn each_repairable_kind_of_damage_to_a_drop_is_found_and_repaired() {
    let fixture = Fixture::new("d-damage").await;
    repair(&fixture, &REPAIRABLE).await;
}

/// Does the damage of each case to a separate coupon, and checks its repair.
pub(crate) async fn repair(fixture: &Fixture, cases: &[Case]) {
    let world = &fixture.world;
    let mut made = Vec::new();
    for case in cases {
        let name = format!("{} of {}", case.damage.name(), case.held);
        let (coupon, _) = fixture.held(&name, QUANTITY, case.held).await;
        let codes = codes(fixture, &coupon).await;
        let done = inject(world, &coupon, case.damage, case.n).await;
        made.push((case, coupon, codes, done));
    }
    let planned = [Outcome::Planned, Outcome::Skipped];
    let dry = dry_run(world).await;
    let run = pass_ends(world, &[], REPAIRED).await;
    for (case, coupon, codes, done) in &made {
        assert_found(&dry, coupon, case.kinds, &planned);
        assert_found(&run, coupon, case.kinds, &[Outcome::Applied]);
        let gone = lost_by(done);
        all_issued(world, coupon.drop, case.end).await;
        assert_whole(world, coupon, QUANTITY, case.end).await;
        assert_kept(world, coupon, &gone).await;
        let now = self::codes(fixture, coupon).await;
        for (user, code) in codes
            .iter()
            .filter(|(user, _)| !gone.contains(&user.as_str()))
        {
            assert_eq!(now.get(user), Some(code), "the code of {user}");
        }
    }
    let coupons: Vec<&MadeCoupon> = made.iter().map(|(_, coupon, ..)| coupon).collect();
    clean_pass_of(world, &coupons).await;
    mailed(world, &["repaired"]).await;
    world.mail.clear();
}

/// Users who hold nothing after the repair, because the damage revoked their claims or freed their
/// slots.
fn lost_by(done: &Injected) -> Vec<&str> {
    let is_gone = matches!(done.kind, Drift::Revoked | Drift::Unfilled);
    let people = done.people.iter().filter(|_| is_gone);
    people.map(|hit| hit.user.as_str()).collect()
}

async fn codes(fixture: &Fixture, coupon: &MadeCoupon) -> BTreeMap<String, String> {
    let codes = "SELECT user_id, code FROM issued_coupons WHERE drop_id";
    let codes = format!("{codes} = {}", coupon.drop);
    let codes = fixture.world.sql.query(&codes).await.into_iter();
    codes.map(|row| (row[0].clone(), row[1].clone())).collect()
}

/// Fails unless the run has findings about this coupon, all of these kinds and with these results.
fn assert_found(run: &Run, coupon: &MadeCoupon, kinds: &[Kind], results: &[Outcome]) {
    let found = found_in(run, coupon);
    let fits = found
        .iter()
        .all(|finding| kinds.contains(&finding.kind) && results.contains(&finding.result));
    assert!(!found.is_empty() && fits, "{kinds:?}: {found:#?}");
}

/// Damage that a pass cannot repair, because no slot is left or only an operator can decide.
#[rustfmt::skip]
const LISTED: [(Drift, &[Kind]); 4] = [
    (Drift::FailedSlotTaken, &[Kind::FailedClaim, Kind::BrokenPromise]),
    (Drift::SlotConflict, &[Kind::SlotConflict, Kind::CountMismatch, Kind::BrokenPromise]),
    (Drift::OverAdmitted, &[Kind::OverAdmitted, Kind::BrokenPromise]),
    (
        Drift::OverShrunk,
        &[Kind::OverAdmitted, Kind::CountMismatch, Kind::SettingsMismatch, Kind::BrokenPromise],
    ),
];

/// An operator adds enough slots for all of these users.
#[tokio::test]
async fn users_without_a_slot_are_listed_by_name_until_a_raised_quantity_gives_them_one() {
    let fixture = Fixture::new("d-owed").await;
    let (api, world) = (&fixture.api, &fixture.world);
    for (damage, kinds) in LISTED {
        let (coupon, _) = fixture.held(&damage.name(), QUANTITY, 20).await;
        let done = inject(world, &coupon, damage, 2).await;
        let quantity = if damage == Drift::OverShrunk { 18 } else { 20 };
        let run = pass_ends(world, &[], DRIFT).await;
        let results = [Outcome::Applied, Outcome::Failed, Outcome::Skipped];
        assert_found(&run, &coupon, kinds, &results);
        let mut owed: Vec<&str> = done.people.iter().map(|hit| hit.user.as_str()).collect();
        owed.sort_unstable();
        assert_whole(world, &coupon, quantity, quantity as usize).await;
        assert_kept(world, &coupon, &owed).await;
        let listed = format!(
            "SELECT user_id FROM broken_promises WHERE drop_id = {} AND mended_at IS NULL ORDER BY 1",
            coupon.drop
        );
        assert_eq!(world.sql.query(&listed).await.concat(), owed);
        for user in &owed {
            assert_eq!(api.me(coupon.id, user).await["status"], "broken", "{user}");
        }
        mailed(world, &["action needed", &damage.name()]).await;
        // A broken promise is reported by name as long as it is open.
        let again = pass_ends(world, &[], DRIFT).await;
        let named = found_in(&again, &coupon);
        assert!(
            named
                .iter()
                .all(|finding| finding.kind == Kind::BrokenPromise),
            "{named:#?}"
        );
        api.change(coupon.id, &json!({"quantity": 22})).await;
        pass_ends(world, &[], REPAIRED).await;
        for user in &owed {
            assert_eq!(api.me(coupon.id, user).await["status"], "issued", "{user}");
        }
        assert_whole(world, &coupon, 22, quantity as usize + 2).await;
        // Its repairs may be told later: mails name repairs at most once an hour.
        mailed(world, &["resolved", &damage.name()]).await;
        clean_pass(world, &coupon).await;
        let open = "SELECT COUNT(*) FROM levels";
        assert_eq!(world.sql.number(open).await, 0, "nothing is left to report");
    }
}

/// No store other than Redis has the waiting list.
#[tokio::test]
async fn the_waiting_list_survives_a_repair_and_is_lost_with_its_key() {
    let fixture = Fixture::new("d-waiting").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let body = coupon_body("Line", 4, 5);
    let (coupon, _) = fixture.held_of(&body, 4).await;
    rush(&[&**api], coupon.id, &people(6)[4..], 1).await;
    inject(world, &coupon, Drift::CountHigher, 3).await;
    pass_ends(world, &[], REPAIRED).await;
    let waiting = api.claim(coupon.id, &people(6)[5]).await;
    assert!(matches!(waiting, Answer::Waiting { .. }), "{waiting:?}");
    let key = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    world.redis.command::<()>(&["DEL", &key]).await;
    api.give_back(coupon.id, &people(1)[0]).await.unwrap();
    let first = api.until_answered(coupon.id, "u-new").await;
    assert_eq!(first.promised().map(|(drop, _)| drop), Some(coupon.drop));
    all_issued(world, coupon.drop, 4).await;
    clean_pass(world, &coupon).await;
}
