//! The judge of the schedules: a healthy run passes, and a promise that is lost beyond repair fails
//! it.

use firstcome_chaos::fault::Fault;
use firstcome_chaos::schedule::{FaultSchedule, Timed};

use super::single::run;

#[tokio::test]
async fn a_run_without_faults_is_exact_and_one_in_which_every_copy_of_a_promise_is_deleted_is_not()
{
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

    // A pass that has read Redis before a deletion, and reads MySQL after it, issues that row
    // again; not all three times.
    let deleted = |at_ms| Timed {
        at_ms,
        fault: Fault::EveryCopyDeleted,
    };
    let faults = [1_200, 1_550, 1_900].map(deleted).into();
    let ran = run("judge-spoiled", &FaultSchedule { faults, ..healthy }).await;
    assert!(ran.faults.iter().any(|hit| hit.took), "{ran:#?}");
    let seen = |wrong: &String| wrong.starts_with("lost") || wrong.starts_with("vanished");
    assert!(ran.wrong.iter().any(seen), "{ran:#?}");
}
