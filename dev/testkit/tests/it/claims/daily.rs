//! Drops of a daily coupon are created days ahead.

use chrono::Utc;
use serde_json::json;

#[tokio::test]
async fn passes_create_drops_days_ahead() {
    let (world, api) = firstcome_testkit::open_world("ahead").await;
    let today = Utc::now().date_naive();
    let schedule = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": today});
    let body = json!({"name": "Daily", "quantity": 5, "once_per": "drop", "waiting_list": 0, "schedule": schedule});
    let coupon = api.create_coupon(&body).await;
    let days = "SELECT COUNT(*) FROM drops WHERE opens_at > UTC_TIMESTAMP()";
    let made = world.sql.number(days).await;
    assert!(made >= 2, "{made} days ahead");
    api.process.kill().await;

    // Simulates that no process has run for days: the later drops do not exist yet.
    let forget = async || {
        let statement = "DELETE FROM drops WHERE opens_at > UTC_TIMESTAMP() + INTERVAL 1 DAY";
        world.sql.query(statement).await;
        assert!(world.sql.number(days).await < made);
    };
    let known_to_admission = async || {
        let mut known = 0;
        for row in world
            .sql
            .query("SELECT id FROM drops WHERE opens_at > UTC_TIMESTAMP()")
            .await
        {
            let meta = world
                .redis
                .of_drop(coupon.id, row[0].parse().unwrap(), "meta");
            known += i64::from(world.redis.command::<bool>(&["EXISTS", &meta]).await);
        }
        known
    };
    forget().await;
    world.pass().await;
    assert_eq!(
        (world.sql.number(days).await, known_to_admission().await),
        (made, made)
    );
}
