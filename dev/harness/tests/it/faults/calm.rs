//! Clean live traffic never closes a coupon. `MINUTES=30 target/debug/firstcome-chaos calm` runs it
//! for longer.

use std::path::Path;
use std::time::Duration;

use firstcome_chaos::calm::calm;

#[tokio::test]
async fn rushes_returns_promotions_and_changes_of_settings_close_no_coupon() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("calm");
    let report = calm(Duration::from_secs(20), &folder).await.unwrap();
    let runs = &report.runs;
    assert!(report.passed(), "kept in {}\n{runs:#?}", folder.display());
    assert!(runs.iter().any(|ran| ran.revoked > 0), "{runs:#?}");
}
