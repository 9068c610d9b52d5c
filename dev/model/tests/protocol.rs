//! Explores every state of each protocol under the faults that it must survive. Every wrong
//! protocol must be caught.

use firstcome_model::{Case, cases};

/// The worlds that contain two thirds of all states. They are explored only before a release.
const LARGE: [&str; 2] = [
    "claims: \"everything but Redis fails, twice\"",
    "claims: \"two reconcilers, everything but Redis fails\"",
];

fn is_large(case: &Case) -> bool {
    LARGE.contains(&case.name.as_str())
}

fn explore(cases: impl Iterator<Item = Case>) {
    let mut explored = 0;
    for case in cases {
        explored += 1;
        let name = case.name.clone();
        let right = case.is_right;
        let least = if name.starts_with("claims") {
            5_000
        } else {
            500
        };
        let (states, broken) = case.explore();
        println!(
            "{name}: {states} states, breaks {:?}",
            broken.as_ref().map(|(property, _)| property)
        );
        assert_eq!(broken.is_none(), right, "{name}: {broken:#?}");
        assert!(
            !right || states > least,
            "{name}: too few states to prove anything"
        );
    }
    assert!(explored >= LARGE.len());
}

#[test]
fn every_promise_holds_in_every_state() {
    let cases = cases().into_iter().filter(|case| case.is_right);
    explore(cases.filter(|case| !is_large(case)));
}

#[test]
#[ignore = "before a release: make faults"]
fn every_promise_holds_in_every_state_of_the_largest_worlds() {
    explore(cases().into_iter().filter(is_large));
}

#[test]
fn every_wrong_protocol_is_caught() {
    explore(cases().into_iter().filter(|case| !case.is_right));
}
