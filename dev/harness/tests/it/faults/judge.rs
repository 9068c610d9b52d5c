//! The judge of the schedules passes a healthy run and fails a run that has lost a promise
//! permanently.

use firstcome_chaos::fault::Fault;
use firstcome_chaos::schedule::{FaultSchedule, Timed};

use super::single::run;

#[tokio::test]
#[ignore = "release"]
async fn a_healthy_run_passes_and_a_run_with_a_completely_deleted_promise_fails() {
    let healthy = FaultSchedule {
        crowd_ms: 2_000,
        quantity: 40,
        people: 70,
        ..FaultSchedule::of(vec![], vec![])
    };
    let ran = run("judge-healthy", &healthy).await;
    assert_eq!(ran.wrong, [""; 0], "{ran:#?}");
    assert_eq!(
        (ran.promises, ran.kept, ran.listed),
        (40, 40, 0),
        "{ran:#?}"
    );
    assert!(ran.exact_after_ms.is_some() && ran.reads > 0, "{ran:#?}");

    // A pass during one deletion may restore the row, but it cannot do so after all three
    // deletions.
    let deleted = |at_ms| Timed {
        at_ms,
        coupon: 0,
        fault: Fault::EveryCopyDeleted,
    };
    let faults = [1_200, 1_550, 1_900].map(deleted).into();
    let ran = run("judge-spoiled", &FaultSchedule { faults, ..healthy }).await;
    assert!(ran.faults.iter().any(|hit| hit.took), "{ran:#?}");
    let seen = |wrong: &String| wrong.starts_with("Lost") || wrong.starts_with("Vanished");
    assert!(ran.wrong.iter().any(seen), "{ran:#?}");
}
