//! Every state of the protocol under the faults it is to withstand; and each wrong protocol is
//! caught.

use firstcome_model::cases;
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn every_promise_holds_in_every_state() {
    for (name, protocol) in cases::right() {
        let checker = protocol.checker().threads(2).spawn_bfs().join();
        println!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
        checker.assert_properties();
        assert!(checker.unique_state_count() > 10_000, "{name}: too few states to have shown anything");
    }
}

#[test]
fn every_wrong_protocol_is_caught() {
    for (wrong, protocol) in cases::wrong() {
        let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let caught = checker.discoveries();
        let names: Vec<_> = caught.keys().filter(|name| **name != "everything is issued").collect();
        println!("{wrong:?} breaks {names:?}");
        assert!(!names.is_empty(), "{wrong:?} is not caught");
    }
}
