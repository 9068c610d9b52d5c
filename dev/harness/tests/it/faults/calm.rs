//! Clean live traffic never closes a coupon. `MINUTES=30 target/debug/firstcome-chaos calm` runs it
//! for longer.

use std::path::Path;

use firstcome_chaos::calm::{CalmLength, calm};

#[tokio::test]
async fn rushes_returns_promotions_and_changes_of_settings_close_no_coupon() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calm");
    // One round for each value of `once_per`.
    let report = calm(CalmLength::Rounds(2), &folder).await.unwrap();
    let runs = &report.runs;
    assert!(report.passed(), "kept in {}\n{runs:#?}", folder.display());
    assert!(runs.iter().any(|ran| ran.revoked > 0), "{runs:#?}");
}
