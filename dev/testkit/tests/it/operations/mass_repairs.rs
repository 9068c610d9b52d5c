//! A drop that needs too many repairs to keep them in memory or to name each of them.

use firstcome_reconciler::report::{Finding, Kind, Outcome, Run, Status};
use firstcome_testkit::World;
use firstcome_testkit::scale::measured_each;

use super::scale::{pass, sold_out};

/// Maximum number of findings in a drop that name their user.
const NAMED: usize = 1_000;

fn told(run: &Run, kind: Kind) -> (Vec<&Finding>, Vec<&Finding>) {
    run.drops[0]
        .findings
        .iter()
        .filter(|finding| finding.kind == kind)
        .partition(|finding| finding.user_id.is_some())
}

/// Fails unless the pass made this many repairs of a kind. The first findings name their users, and
/// one more finding counts the rest.
fn assert_repaired(run: &Run, kind: Kind, number: u32) {
    assert!(
        run.status == Status::Repaired && run.drops[0].exact,
        "{:?} {:?}",
        run.status,
        run.error
    );
    let (named, more) = told(run, kind);
    assert!(
        named.len() == NAMED
            && named
                .iter()
                .all(|finding| finding.result == Outcome::Applied)
    );
    let number = format!("{} more like the ones listed", number as usize - NAMED);
    assert!(
        more.len() == 1
            && more[0].detail.starts_with(&number)
            && more[0].result == Outcome::Applied,
        "{more:?}"
    );
}

#[tokio::test]
async fn rows_and_admissions_of_a_million_users_are_repaired_page_by_page() {
    let figures = [
        (
            "1,000,000 rows missing in MySQL: memory of the pass that writes them over that of an empty one",
            "≤ 50 MB",
        ),
        (
            "1,000,000 people missing in Redis: memory of the pass that puts them back over that of an empty one",
            "≤ 50 MB",
        ),
    ];
    let [issuing, putting] = measured_each(figures, [50_000, 1_000_000], async |people| {
        let world = World::new("mass").await;
        world.open().await;
        let (_, empty) = pass(&world, &[]).await;
        let coupon = sold_out(&world, people, false).await;
        let (dry, _) = pass(&world, &["--dry-run"]).await;
        let (named, more) = told(&dry, Kind::Unissued);
        assert!(
            named
                .iter()
                .chain(&more)
                .all(|finding| finding.result == Outcome::Planned)
        );
        assert!(
            more[0]
                .detail
                .starts_with(&format!("{} more", people as usize - named.len())),
            "{more:?}"
        );
        let (run, issuing) = pass(&world, &[]).await;
        assert_repaired(&run, Kind::Unissued, people);
        let rows = format!(
            "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
            coupon.drop
        );
        assert_eq!(world.sql.number(&rows).await, i64::from(people));

        // Redis is restored from a copy that lacks most of the rush. The coupon therefore closes.
        let [users, count] =
            ["users", "count"].map(|name| world.redis.of_drop(coupon.id, coupon.drop, name));
        let kept = people / 50;
        world
            .redis
            .command::<()>(&["ZREMRANGEBYRANK", &users, &kept.to_string(), "-1"])
            .await;
        world
            .redis
            .command::<()>(&["SET", &count, &kept.to_string()])
            .await;
        let gate = world.redis.gate(coupon.id);
        assert_eq!(world.redis.command::<u32>(&["DEL", &gate]).await, 1);
        let (run, memory) = pass(&world, &[]).await;
        assert_repaired(&run, Kind::MissingAdmission, people - kept);
        assert_eq!(world.redis.command::<u32>(&["ZCARD", &users]).await, people);
        assert!(
            world
                .redis
                .command::<String>(&["GET", &gate])
                .await
                .ends_with("open"),
            "the gate is open"
        );
        let (run, _) = pass(&world, &[]).await;
        assert_eq!(
            run.status,
            Status::Clean,
            "{:?}",
            run.drops[0].findings.first()
        );
        [issuing - empty, memory - empty]
    })
    .await;
    assert!(issuing.max(putting) < 100.0, "{issuing} and {putting} MB");
}
