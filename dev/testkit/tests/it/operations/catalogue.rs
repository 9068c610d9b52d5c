//! The catalogue's cost depends on open coupons, not on ended ones.

use std::time::Instant;

use firstcome_testkit::scale::measured_each;
use firstcome_testkit::{LIMIT, World, eventually};

use super::scale::most_memory;
use super::sizes::insert;

/// Inserts this many coupons with ten sealed drops each; one in a hundred also has an open drop.
pub(super) async fn fill(world: &World, coupons: u32) {
    insert(
        world,
        coupons,
        "INSERT INTO coupons (id, name, quantity, once_per)",
        "1000 + i, CONCAT('c ', i), 100, 'drop'",
    )
    .await;
    let sealed = "INSERT INTO drops (id, coupon_id, local_date, opens_at, closes_at, quantity, sealed_at, sealed_rows)";
    for day in 1..=10 {
        let date = format!("'2026-01-{day:02}'");
        let values = format!(
            "20 * i + {day}, 1000 + i, {date}, {date}, {date} + INTERVAL 1 HOUR, 100, {date}, 0"
        );
        insert(world, coupons, sealed, &values).await;
    }
    let open = "INSERT INTO drops (id, coupon_id, local_date, opens_at, quantity)";
    insert(
        world,
        coupons / 100,
        open,
        "20 * i + 11, 1000 + i, '2026-02-01', '2026-02-01', 100",
    )
    .await;
}

/// Returns the API's startup time in seconds, its fastest refresh in milliseconds, and its memory
/// in MB.
async fn measure(coupons: u32) -> [f64; 3] {
    let world = World::new("catalogue").await;
    fill(&world, coupons).await;
    let began = Instant::now();
    let api = world
        .serve_with(&[("FIRSTCOME_TEST_CATALOGUE_REFRESH_MS", "50")])
        .await;
    let start = began.elapsed().as_secs_f64();
    assert_eq!(api.coupon(1_001).await["current_drop"]["state"], "open");
    assert_eq!(
        api.coupon(1_000 + i64::from(coupons)).await["current_drop"]["state"],
        "sealed"
    );
    let mut seen = 0;
    let mut best = f64::INFINITY;
    eventually("refreshes are seen", LIMIT, async || {
        let took = api
            .http()
            .metric("firstcome_catalogue_refresh_seconds", &[])
            .await
            .unwrap_or_default();
        if took > 0.0 {
            seen += 1;
            best = best.min(took);
        }
        seen > 20
    })
    .await;
    let in_memory = api
        .http()
        .metric("firstcome_catalogue_coupons", &[])
        .await
        .unwrap_or_default();
    assert!(
        (in_memory - f64::from(coupons / 100)).abs() < 0.5,
        "{in_memory}"
    );
    [start, best * 1_000.0, most_memory(&api.process).unwrap()]
}

#[tokio::test]
async fn the_catalogues_cost_depends_on_open_coupons_only() {
    let what = |part: &str| format!("100,000 coupons (1,000 open), 1,000,000 sealed drops: {part}");
    let figures = [
        (&*what("API start"), "≤ 1 s"),
        (&what("catalogue refresh"), "≤ 20 ms"),
        (&what("API memory"), "≤ 60 MB"),
    ];
    let [start, refresh, memory] = measured_each(figures, [2_000, 100_000], measure).await;
    // The limit allows for a busy machine.
    assert!(
        start < 20.0 && refresh < 500.0 && memory < 100.0,
        "{start} s, {refresh} ms, {memory} MB"
    );
}
