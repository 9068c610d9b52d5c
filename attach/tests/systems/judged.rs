//! Properties of the pure judge.

use firstcome_attach::config::{CountMeans, UsersMean};
use firstcome_attach::facts::{Facts, Numbers, UserSets};
use firstcome_attach::judge::{Judged, Repair, judge};
use firstcome_attach::keys::MoveCount;
use proptest::prelude::*;

fn numbers() -> impl Strategy<Value = Numbers> {
    let count = prop::option::weighted(0.9, -20..40_i64);
    (prop::option::of(0..30_u64), count, 0..30_u64).prop_map(|(size, count, rows)| Numbers {
        size,
        count,
        rows,
    })
}

fn facts() -> impl Strategy<Value = Facts> {
    let users_mean = prop::sample::select(vec![
        Some(UsersMean::Admitted),
        Some(UsersMean::Applied),
        None,
    ]);
    let is_exact = any::<bool>();
    let missing = prop::collection::btree_set("[a-c]", 0..3);
    let all = (
        1..25_u64,
        numbers(),
        numbers(),
        users_mean,
        is_exact,
        missing,
    );
    (all, any::<[bool; 3]>()).prop_map(
        |((quantity, before, now, means, is_exact, missing), flags)| {
            let [is_selling, is_over, is_at_rest] = flags;
            Facts {
                quantity,
                before: if is_at_rest { now } else { before },
                now,
                is_selling,
                is_over,
                means,
                count_means: Some(if is_exact {
                    CountMeans::Issued
                } else {
                    CountMeans::Tickets
                }),
                // Otherwise each repair of a counter of coupons left asks whether stock was added.
                is_quantity_settled: true,
                sets: UserSets {
                    missing,
                    ..UserSets::default()
                },
                ..Facts::default()
            }
        },
    )
}

/// The same system with a counter of coupons left.
fn mirrored(facts: &Facts) -> Facts {
    let quantity = facts.quantity.cast_signed();
    let mirror = |numbers: Numbers| Numbers {
        count: numbers.count.map(|count| quantity - count),
        ..numbers
    };
    Facts {
        before: mirror(facts.before),
        now: mirror(facts.now),
        count_means: facts.count_means.map(|means| match means {
            CountMeans::Issued | CountMeans::Left => CountMeans::Left,
            CountMeans::Tickets | CountMeans::LeftTickets => CountMeans::LeftTickets,
        }),
        ..facts.clone()
    }
}

/// The findings, and the number of coupons given out after each repair. Texts and doubts are left
/// out: texts differ, and some doubts concern only counters that count up.
fn essence(facts: &Facts) -> Vec<String> {
    let quantity = facts.quantity.cast_signed();
    let given = |count: i64| match facts.count_means {
        Some(means) => means.given(count, quantity),
        None => count,
    };
    let repair = |it: &Judged| match &it.repair {
        Some(Repair::MoveCount(MoveCount { seen, by, .. })) => {
            format!("to {}", given(seen.unwrap_or_default() + by))
        }
        other => format!("{other:?}"),
    };
    let all = judge(facts).found;
    all.iter()
        .map(|it| {
            let kind = it.finding.kind.as_str();
            let user = it.finding.user_id.as_deref().unwrap_or_default();
            format!("{kind} {user} {} {}", repair(it), it.finding.needs_person)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counter_of_coupons_left_is_judged_like_a_counter_of_coupons_given(facts in facts()) {
        prop_assert_eq!(essence(&facts), essence(&mirrored(&facts)));
    }

    #[test]
    fn counter_moves_at_most_to_what_is_given_out_and_never_after_the_end(facts in facts()) {
        for it in judge(&facts).found {
            let Some(Repair::MoveCount(to)) = it.repair else {
                continue;
            };
            prop_assert!(!facts.is_over);
            prop_assert_eq!(to.seen, facts.now.count);
            prop_assert!(facts.is_selling || facts.before.count == facts.now.count);
            let after = to.seen.unwrap_or_default() + to.by;
            let taken = facts.now.rows.max(facts.now.admitted(facts.means).unwrap_or_default());
            let most = taken + facts.sets.missing.len() as u64;
            prop_assert!(after <= most.cast_signed(), "{after} of {most}");
            // While coupons are being sold, the counter is only raised.
            prop_assert!(!facts.is_selling || to.by > 0 || to.seen.is_none());
        }
    }
}
