//! Decides which claims of a refused batch become rows: a pure function of the claims, the rows of
//! the same slots or users, and the rules of the drops.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use firstcome_shared::claim::Claim;
use firstcome_shared::coupon::ClaimFault;
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot};
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::catalogue::DropRules;
use firstcome_shared::mysql::erased::{as_stored, is_pseudonym};
use firstcome_shared::mysql::issued::IssuedRow;

/// Whether a claim became a row, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Issued,
    /// The claim already has its row. In a sealed drop, a row of the user on another slot counts,
    /// too.
    Again,
    /// A revocation or an erasure voids the claim: it gets neither a row nor a dead letter.
    Void,
    /// The claim becomes a dead letter, with a reason and an explanation without user ids.
    Refused(DeadLetterReason, String),
}

impl WriteOutcome {
    pub(crate) fn has_row(&self) -> bool {
        matches!(self, Self::Issued | Self::Again)
    }
}

impl From<ClaimFault> for WriteOutcome {
    fn from(fault: ClaimFault) -> Self {
        Self::Refused(fault.into(), fault.explanation().to_owned())
    }
}

/// Classifies claims in order: if two exclude each other, the first that is not void is issued.
pub(super) fn classify<'a>(
    claims: &[&'a Claim],
    void: &[bool],
    rows: &'a [IssuedRow],
    rules: &HashMap<DropId, DropRules>,
) -> Vec<WriteOutcome> {
    let mut holders = SlotHolders::default();
    for row in rows {
        let holder = Holder {
            user: &row.user_id,
            claimed_at: Some(row.claimed_at),
        };
        let coupon = CouponId(row.coupon_id);
        holders.add(DropId(row.drop_id), row.slot, coupon, holder);
    }
    let claims = claims.iter().zip(void);
    claims
        .map(|(claim, is_void)| {
            if *is_void {
                WriteOutcome::Void
            } else {
                holders.judge(claim, rules)
            }
        })
        .collect()
}

#[derive(Clone, Copy)]
struct Holder<'a> {
    user: &'a str,
    claimed_at: Option<DateTime<Utc>>,
}

impl Holder<'_> {
    /// Whether this is a claim of the holder. The id of an erased user is gone, so the time of
    /// admission is compared instead.
    fn has(&self, claim: &Claim) -> bool {
        let same_instant =
            || self.claimed_at.is_some() && self.claimed_at == claim.claimed_at.map(as_stored);
        self.user == claim.user_id.as_str() || is_pseudonym(self.user) && same_instant()
    }
}

/// Slots and their holders: existing rows, and claims that will become rows.
#[derive(Default)]
struct SlotHolders<'a> {
    slots: HashMap<(DropId, Slot), Holder<'a>>,
    /// By coupon, user and scope. Each row and each issued claim has an entry for the whole coupon
    /// and one for its drop; the drop's rule determines which of them applies.
    people: HashMap<(CouponId, &'a str, Option<DropId>), (DropId, Slot)>,
}

impl<'a> SlotHolders<'a> {
    fn add(&mut self, drop: DropId, slot: Slot, coupon: CouponId, holder: Holder<'a>) {
        self.slots.insert((drop, slot), holder);
        for scope in [None, Some(drop)] {
            let held = self.people.entry((coupon, holder.user, scope));
            held.or_insert((drop, slot));
        }
    }

    fn judge(&mut self, claim: &'a Claim, rules: &HashMap<DropId, DropRules>) -> WriteOutcome {
        let coupon = claim.coupon_id;
        let drop = claim.drop_id;
        let slot = claim.slot;
        let user = claim.user_id.as_str();
        let Some(rule) = rules.get(&drop).filter(|rule| rule.coupon_id == coupon) else {
            let why = format!("coupon {coupon} has no drop {drop}");
            return WriteOutcome::Refused(DeadLetterReason::UnknownDrop, why);
        };
        if slot < 1 || slot > rule.quantity {
            let why = format!("slot {slot} is outside 1 to {}", rule.quantity);
            return WriteOutcome::Refused(DeadLetterReason::SlotOutOfRange, why);
        }
        let holder = self.slots.get(&(drop, slot)).copied();
        let held_in = |scope| self.people.get(&(coupon, user, scope));
        // In a sealed drop, a row on another slot also fulfils the promise.
        let is_fulfilled = rule.window.is_sealed && held_in(Some(drop)).is_some();
        if is_fulfilled || holder.is_some_and(|holder| holder.has(claim)) {
            return WriteOutcome::Again;
        }
        // Check this before `slot_taken`: a user who already has a coupon has lost nothing.
        let scope = (rule.once_per == OncePer::Drop).then_some(drop);
        if let Some((drop, slot)) = held_in(scope) {
            let why = format!("this user holds slot {slot} of drop {drop}");
            return WriteOutcome::Refused(DeadLetterReason::AlreadyHasOne, why);
        }
        if let Some(fault) = rule.window.fault(claim.claimed_at) {
            return fault.into();
        }
        if holder.is_some() {
            let why = format!("slot {slot} of drop {drop} is another person's");
            return WriteOutcome::Refused(DeadLetterReason::SlotTaken, why);
        }
        let claimed_at = claim.claimed_at.map(as_stored);
        self.add(drop, slot, coupon, Holder { user, claimed_at });
        WriteOutcome::Issued
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use firstcome_shared::coupon::DropWindow;
    use proptest::prelude::*;

    use super::*;

    fn claim(coupon: i64, user: &str, drop: i64, slot: Slot) -> Claim {
        Claim {
            coupon_id: CouponId(coupon),
            drop_id: DropId(drop),
            slot,
            user_id: user.parse().unwrap(),
            claimed_at: None,
        }
    }

    fn row(coupon: i64, user: &str, drop: i64, slot: Slot) -> IssuedRow {
        let at = DateTime::UNIX_EPOCH;
        IssuedRow {
            drop_id: drop,
            slot,
            coupon_id: coupon,
            user_id: user.into(),
            code: String::new(),
            claimed_at: at,
            issued_at: at,
            issued_by: "consumer".into(),
        }
    }

    /// Coupon 1 has the drops 10 and 11, once per coupon. Coupon 2 has the drops 20 and 21, once
    /// per drop. Drop 40 of coupon 4 is sealed. All drops open at the epoch and close an hour
    /// later.
    fn rules() -> HashMap<DropId, DropRules> {
        let opens_at = DateTime::UNIX_EPOCH;
        let closes_at = Some(DateTime::UNIX_EPOCH + TimeDelta::hours(1));
        let rule = |drop, coupon, once_per| {
            let window = DropWindow {
                opens_at,
                closes_at,
                is_sealed: drop == 40,
            };
            (
                DropId(drop),
                DropRules {
                    coupon_id: CouponId(coupon),
                    quantity: 5,
                    once_per,
                    window,
                },
            )
        };
        let once =
            [(10, 1), (11, 1), (40, 4)].map(|(drop, coupon)| rule(drop, coupon, OncePer::Coupon));
        let each = [(20, 2), (21, 2)].map(|(drop, coupon)| rule(drop, coupon, OncePer::Drop));
        once.into_iter().chain(each).collect()
    }

    /// Classifies claims of which none is void.
    fn verdicts(claims: &[&Claim], rows: &[IssuedRow]) -> Vec<WriteOutcome> {
        classify(claims, &vec![false; claims.len()], rows, &rules())
    }

    fn words(claims: &[Claim], rows: &[IssuedRow]) -> Vec<&'static str> {
        let claims: Vec<&Claim> = claims.iter().collect();
        let word = |verdict| match verdict {
            WriteOutcome::Issued => "issue",
            WriteOutcome::Again => "again",
            WriteOutcome::Void => "void",
            WriteOutcome::Refused(reason, _) => reason.as_str(),
        };
        verdicts(&claims, rows).into_iter().map(word).collect()
    }

    #[test]
    fn claims_are_classified_by_existing_rows_and_the_rules_of_drops() {
        let rows = [
            row(1, "ann", 10, 1),
            row(2, "ann", 20, 1),
            row(1, "bob", 10, 2),
        ];
        for (claim, expected) in [
            (claim(1, "eve", 10, 3), "issue"),
            (claim(1, "ann", 10, 1), "again"),
            (claim(1, "eve", 10, 1), "slot_taken"),
            (claim(1, "ann", 10, 3), "already_has_one"),
            (claim(1, "ann", 11, 3), "already_has_one"), // once per coupon
            (claim(1, "ann", 10, 2), "already_has_one"), // even on a taken slot
            (claim(2, "ann", 20, 3), "already_has_one"),
            (claim(2, "ann", 21, 3), "issue"), // once per drop
            (claim(2, "bob", 20, 2), "issue"), // another coupon
            (claim(1, "eve", 10, 0), "slot_out_of_range"),
            (claim(1, "eve", 10, 5), "issue"),
            (claim(1, "eve", 10, 6), "slot_out_of_range"),
            (claim(1, "eve", 99, 1), "unknown_drop"),
            (claim(2, "eve", 10, 3), "unknown_drop"), // a drop of another coupon
            (claim(2, "ann", 10, 1), "unknown_drop"),
            (claim(1, "Ann", 10, 1), "slot_taken"), // ids are case-sensitive
        ] {
            assert_eq!(
                words(std::slice::from_ref(&claim), &rows),
                [expected],
                "{claim:?}"
            );
        }
    }

    #[test]
    fn claims_are_classified_by_window_and_seal_and_for_erased_users_by_time() {
        let at = |hours| Some(DateTime::UNIX_EPOCH + TimeDelta::hours(hours));
        let rows = [
            row(1, "erased-0123456789abcdef0123", 10, 1),
            row(1, "bob", 10, 2),
            row(4, "erased-00000000000000000001", 40, 1),
            row(4, "ann", 40, 2),
        ];
        for (claim, claimed_at, expected) in [
            (claim(1, "eve", 10, 1), at(0), "again"),
            (claim(1, "eve", 10, 1), at(1), "slot_taken"),
            (claim(1, "eve", 10, 1), None, "slot_taken"),
            (claim(1, "eve", 10, 2), at(0), "slot_taken"), // the same instant as Bob
            (claim(1, "eve", 10, 1), at(2), "outside_window"),
            (claim(1, "eve", 10, 3), at(2), "outside_window"),
            (claim(1, "bob", 10, 2), at(2), "again"),
            (claim(1, "bob", 10, 3), at(2), "already_has_one"),
            (claim(4, "eve", 40, 1), at(0), "again"),
            (claim(4, "eve", 40, 1), at(1), "sealed_drop"),
            (claim(4, "eve", 40, 3), at(0), "sealed_drop"),
            (claim(4, "ann", 40, 3), at(0), "again"), // was moved to slot 2
            (claim(4, "eve", 40, 2), at(0), "sealed_drop"),
        ] {
            let claim = Claim {
                claimed_at,
                ..claim
            };
            assert_eq!(
                words(std::slice::from_ref(&claim), &rows),
                [expected],
                "{claim:?}"
            );
        }
    }

    #[test]
    fn first_of_conflicting_claims_is_issued() {
        let batch = [
            claim(1, "ann", 10, 1),
            claim(1, "ann", 10, 1),
            claim(1, "bob", 10, 1),
            claim(1, "ann", 11, 1),
            claim(1, "bob", 11, 1),
            claim(2, "ann", 20, 1),
            claim(2, "ann", 21, 1),
            claim(2, "ann", 21, 2),
        ];
        let expected = [
            "issue",
            "again",
            "slot_taken",
            "already_has_one",
            "issue",
            "issue",
            "issue",
            "already_has_one",
        ];
        assert_eq!(words(&batch, &[]), expected);
    }

    #[test]
    fn void_claim_takes_neither_its_slot_nor_its_user() {
        let void = claim(1, "ann", 10, 1);
        let same_slot = claim(1, "bob", 10, 1);
        let same_user = claim(1, "ann", 10, 2);
        let claims = [&void, &same_slot, &same_user];
        let expected = [
            WriteOutcome::Void,
            WriteOutcome::Issued,
            WriteOutcome::Issued,
        ];
        assert_eq!(
            classify(&claims, &[true, false, false], &[], &rules()),
            expected
        );
    }

    #[test]
    fn explanation_names_the_slot_that_the_user_holds_but_no_user() {
        let ann = claim(1, "ann", 10, 3);
        let rows = [row(1, "ann", 10, 1), row(1, "bob", 10, 3)];
        let [WriteOutcome::Refused(_, error)] = &verdicts(&[&ann], &rows)[..] else {
            panic!("not refused")
        };
        assert_eq!(error, "this user holds slot 1 of drop 10");
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        let drops = vec![(1, 10), (1, 11), (2, 20), (2, 21), (1, 20), (3, 30)];
        let drops = proptest::sample::select(drops);
        (drops, 0_u32..8, 0_u8..6)
            .prop_map(|((coupon, drop), slot, user)| claim(coupon, &format!("u{user}"), drop, slot))
    }

    proptest! {
        /// Checks that the rows issued by two batches together obey the rules of the schema, and
        /// that a second read issues nothing.
        #[test]
        fn issued_rows_fit_the_schema_and_a_second_read_issues_nothing(claims in proptest::collection::vec(any_claim(), 0..40), split in 0_usize..40) {
            let rules = rules();
            let (earlier, later) = claims.split_at(split.min(claims.len()));
            let mut rows: Vec<IssuedRow> = Vec::new();
            for part in [earlier, later] {
                let part: Vec<&Claim> = part.iter().collect();
                let verdicts = verdicts(&part, &rows);
                for (claim, _) in part.iter().zip(&verdicts).filter(|(_, verdict)| **verdict == WriteOutcome::Issued) {
                    rows.push(row(claim.coupon_id.0, claim.user_id.as_str(), claim.drop_id.0, claim.slot));
                }
            }
            let mut slots = std::collections::HashSet::new();
            let mut people = std::collections::HashSet::new();
            for row in &rows {
                let rule = rules[&DropId(row.drop_id)];
                prop_assert!(rule.coupon_id.0 == row.coupon_id && (1..=rule.quantity).contains(&row.slot));
                prop_assert!(slots.insert((row.drop_id, row.slot)));
                let scope = if rule.once_per == OncePer::Coupon { 0 } else { row.drop_id };
                prop_assert!(people.insert((row.coupon_id, row.user_id.clone(), scope)));
            }
            let all: Vec<&Claim> = claims.iter().collect();
            prop_assert!(!verdicts(&all, &rows).contains(&WriteOutcome::Issued));
        }
    }
}
