//! Explores every state of each protocol under the faults that it must survive. Every protocol that
//! omits a rule must be caught.

use firstcome_model::{Case, cases, with_omitted_rules};

/// Fewer states than the smallest world has, so that a world in which nothing can happen is
/// noticed.
const LEAST: usize = 500;

fn explore(cases: impl Iterator<Item = Case>) {
    let mut explored = 0;
    for case in cases {
        explored += 1;
        let name = case.name.clone();
        let is_whole = case.is_whole;
        let (states, broken) = case.explore();
        let property = broken.as_ref().map(|(property, _)| property);
        println!("{name}: {states} states, breaks {property:?}");
        assert_eq!(broken.is_none(), is_whole, "{name}: {broken:#?}");
        assert!(
            !is_whole || states > LEAST,
            "{name}: too few states to prove anything"
        );
    }
    assert!(explored > 0);
}

#[test]
fn every_promise_holds_in_every_state() {
    explore(
        cases()
            .into_iter()
            .filter(|case| case.is_whole && !case.is_large),
    );
}

#[test]
#[ignore = "before a release: make faults"]
fn every_promise_holds_in_every_state_of_the_largest_worlds() {
    explore(
        cases()
            .into_iter()
            .filter(|case| case.is_whole && case.is_large),
    );
}

#[test]
fn every_omitted_rule_is_caught() {
    explore(cases().into_iter().filter(|case| !case.is_whole));
}

/// Otherwise its omission would be caught by nothing.
#[test]
#[ignore = "before a release: make faults"]
fn no_world_of_an_omitted_rule_breaks_in_the_same_way_with_all_rules() {
    let omitted = cases().into_iter().filter(|case| !case.is_whole);
    for (omitted, whole) in omitted.zip(with_omitted_rules()) {
        let name = omitted.name.clone();
        let [omitted, whole] = [omitted, whole].map(|case| {
            let (_, broken) = case.explore();
            broken.map(|(property, _)| property)
        });
        println!("{name}: breaks {omitted:?}, and {whole:?} with all rules");
        assert_ne!(omitted, whole, "{name}");
    }
}
