//! Every state of the protocol under the faults it is to withstand; and each wrong protocol is caught.

use firstcome_model::{HEALS, ROWS_ADMITTED, cases};
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

/// What is not promised, written down so that nobody believes it is: see [`cases::silent_losses`].
#[test]
fn two_faults_at_once_can_lose_a_promise_but_never_issue_to_whom_was_not_admitted() {
    for (name, protocol) in cases::silent_losses() {
        let checker = protocol.checker().threads(2).spawn_bfs().join();
        assert!(checker.discovery(HEALS).is_some(), "{name}: it holds by now; say so in `right`");
        assert!(checker.discovery(ROWS_ADMITTED).is_none(), "{name}");
    }
}
