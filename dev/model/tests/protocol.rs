//! Explores every state of the protocols under the faults that they must survive; each wrong
//! protocol is caught.

use firstcome_model::{Case, cases};

fn explore(right: bool) {
    for case in cases().into_iter().filter(|case| case.is_right == right) {
        let Case { name, .. } = &case;
        let (name, least) = (
            name.clone(),
            if name.starts_with("claims") {
                10_000
            } else {
                500
            },
        );
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
}

#[test]
fn every_promise_holds_in_every_state() {
    explore(true);
}

#[test]
fn every_wrong_protocol_is_caught() {
    explore(false);
}
