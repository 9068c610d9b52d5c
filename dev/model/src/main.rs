//! `firstcome-model`: explores every protocol and prints what was found.

use std::process::ExitCode;

use firstcome_model::{Protocol, State, Step, cases};
use stateright::{Checker, HasDiscoveries, Model, Path};

fn main() -> ExitCode {
    let mut good = true;
    for (name, protocol) in cases::right() {
        let (states, broken) = explore(protocol);
        println!("{name}: {states} states, {}", if broken.is_some() { "BROKEN" } else { "every promise holds" });
        print(broken.as_ref());
        good &= broken.is_none();
    }
    for (wrong, protocol) in cases::wrong() {
        let (_, broken) = explore(protocol);
        println!("{wrong:?}: {}", if broken.is_some() { "caught" } else { "NOT CAUGHT" });
        print(broken.as_ref());
        good &= broken.is_some();
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Broken = (&'static str, Path<State, Step>);

/// The number of states and the shortest history that breaks a promise.
fn explore(protocol: Protocol) -> (usize, Option<Broken>) {
    let checker = protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let mut failures = checker.discoveries().into_iter();
    let broken = failures.find(|(name, _)| checker.model().property(name).expectation.discovery_is_failure());
    (checker.unique_state_count(), broken)
}

fn print(broken: Option<&Broken>) {
    let Some((name, path)) = broken else { return };
    println!("    not: {name}");
    for step in path.clone().into_actions() {
        println!("    {step:?}");
    }
}
