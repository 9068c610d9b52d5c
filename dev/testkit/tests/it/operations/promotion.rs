//! A quantity is raised while users wait: they get the new slots immediately and before newcomers,
//! without waiting for a scheduled pass.

use std::time::Instant;

use firstcome_testkit::scale::is_full;
use firstcome_testkit::{Fixture, LIMIT, MadeCoupon, coupon_body, eventually, rows, rush};
use serde_json::json;

use crate::faults::waves::{passes_by_hand, stalled_pass};

/// Creates a sold-out coupon with this many users waiting, in order.
pub(super) async fn with_a_line(
    fixture: &Fixture,
    name: &str,
    people: usize,
) -> (MadeCoupon, Vec<String>) {
    let (coupon, _) = fixture
        .held_of(&coupon_body(name, 10, u32::try_from(people).unwrap()), 10)
        .await;
    let names: Vec<String> = (1..=people).map(|n| format!("{name}-{n}")).collect();
    rush(&[&fixture.api], coupon.id, &names, 100).await;
    let waiting = fixture
        .world
        .redis
        .of_drop(coupon.id, coupon.drop, "waiting");
    let line: Vec<String> = fixture
        .world
        .redis
        .command(&["ZRANGE", &waiting, "0", "-1"])
        .await;
    assert_eq!(line.len(), people);
    (coupon, line)
}

pub(super) async fn raise(fixture: &Fixture, coupon: &MadeCoupon, quantity: usize) {
    fixture
        .api
        .change(coupon.id, &json!({"quantity": quantity}))
        .await;
}

async fn all_have_rows(fixture: &Fixture, coupon: &MadeCoupon, quantity: usize) {
    let count = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    let all = i64::try_from(quantity).unwrap();
    eventually("everybody has a row", LIMIT, async || {
        fixture.world.sql.number(&count).await >= all
    })
    .await;
}

#[tokio::test]
async fn waiting_users_get_a_raised_quantity_in_order_despite_a_hanging_pass() {
    let fixture = Fixture::new("promotion").await;
    let _daemon = fixture.world.daemon().await;
    let pass = stalled_pass(&fixture.world).await;
    let mut took = Vec::new();
    for people in [10, if is_full() { 5_000 } else { 1_300 }] {
        let name = format!("line{people}");
        let (coupon, line) = with_a_line(&fixture, &name, people).await;
        let newcomers: Vec<String> = (0..50).map(|n| format!("{name}-new-{n}")).collect();
        let raised = async {
            let began = Instant::now();
            raise(&fixture, &coupon, 10 + people).await;
            all_have_rows(&fixture, &coupon, 10 + people).await;
            began.elapsed()
        };
        let (elapsed, newcomers) =
            tokio::join!(raised, rush(&[&fixture.api], coupon.id, &newcomers, 5));
        assert!(
            newcomers.iter().all(|(_, answer)| !answer.is_accepted()),
            "{newcomers:?}"
        );
        let rows = rows(&fixture.world, coupon.drop).await;
        assert_eq!(
            rows.range(11..)
                .map(|(_, user)| user.clone())
                .collect::<Vec<_>>(),
            line
        );
        took.push(elapsed.as_secs_f64());
    }
    assert_eq!(
        passes_by_hand(&fixture.world).await,
        1,
        "the pass is still running"
    );
    pass.kill().await;
    println!(
        "scale: 5,000 waiting, quantity raised by 5,000: all rows | {:.2} s | {:.2} s | ≤ 2 s",
        took[1], took[0]
    );
}

#[tokio::test]
async fn a_raised_quantity_serves_the_waiting_user_and_newcomers() {
    let fixture = Fixture::new("promotion-one").await;
    let _daemon = fixture.world.daemon().await;
    let (coupon, line) = with_a_line(&fixture, "one", 1).await;
    let newcomers = |from: usize, to| (from..to).map(|n| format!("new-{n}")).collect::<Vec<_>>();
    raise(&fixture, &coupon, 1_800).await;
    // Newcomers queue behind the waiting user, and the line is longer than a pass promotes in one
    // batch.
    rush(&[&fixture.api], coupon.id, &newcomers(0, 1_500), 20).await;
    let waiting = fixture
        .world
        .redis
        .of_drop(coupon.id, coupon.drop, "waiting");
    eventually("nobody waits", LIMIT, async || {
        fixture
            .world
            .redis
            .command::<i64>(&["ZCARD", &waiting])
            .await
            == 0
    })
    .await;
    let later = rush(&[&fixture.api], coupon.id, &newcomers(1_500, 1_789), 20).await;
    assert!(
        later.iter().all(|(_, answer)| answer.is_accepted()),
        "{later:?}"
    );
    all_have_rows(&fixture, &coupon, 1_800).await;
    assert_eq!(rows(&fixture.world, coupon.drop).await[&11], line[0]);
}
