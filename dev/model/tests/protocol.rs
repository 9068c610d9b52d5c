//! Every state of the protocols under the faults they are to withstand; and each wrong one is caught.

use firstcome_model::cases;

#[test]
fn every_promise_holds_in_every_state_and_every_wrong_protocol_is_caught() {
    for case in cases() {
        let (name, is_right) = (case.name.clone(), case.is_right);
        let (states, broken) = case.explore();
        println!(
            "{name}: {states} states, breaks {:?}",
            broken.as_ref().map(|(property, steps)| (property, steps.len()))
        );
        assert_eq!(broken.is_none(), is_right, "{name}: {broken:#?}");
    }
}
