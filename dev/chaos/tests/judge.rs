//! The judge of the schedules, on real servers: it finds nothing wrong with a healthy run, and sees a promise that is lost
//! beyond repair. Build the product's programs first: `cargo build --workspace`.
#![allow(clippy::unwrap_used)]

use firstcome_chaos::campaign::Bench;
use firstcome_chaos::fault::Fault;
use firstcome_chaos::schedule::{Schedule, Timed};

#[tokio::test]
async fn a_run_without_faults_is_exact_and_one_in_which_every_copy_of_a_promise_is_deleted_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::default();
    let healthy =
        Schedule { crowd_ms: 2_000, quantity: 40, people: 70, coupons: 1, faults: vec![], ..Schedule::draw(1) };
    let ran = bench.run(&healthy, &folder.path().join("healthy")).await.unwrap();
    assert_eq!(ran.wrong, [""; 0], "{ran:#?}");
    assert_eq!((ran.promises, ran.kept, ran.listed), (40, 40, 0), "{ran:#?}");
    assert!(ran.exact_after_ms.is_some() && ran.reads > 0, "{ran:#?}");

    let deleted = Timed { at_ms: 1_500, fault: Fault::EveryCopyDeleted };
    let spoiled = Schedule { faults: vec![deleted.clone(), deleted], ..healthy };
    let ran = bench.run(&spoiled, &folder.path().join("spoiled")).await.unwrap();
    assert!(ran.faults.iter().any(|hit| hit.took), "{ran:#?}");
    let seen = |wrong: &String| wrong.starts_with("lost") || wrong.starts_with("vanished");
    assert!(ran.wrong.iter().any(seen), "{ran:#?}");
}
