//! Repairs that are interrupted anywhere, and repairs during live traffic: the remaining state is
//! consistent.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, ApiClient, Fixture, LIMIT, MadeCoupon, PromisedAnswer, World, assert_nothing_found,
    coupon_body, eventually, eventually_some, rows, shared,
};
use futures_util::StreamExt as _;

use crate::drift::support::{assert_settled, assert_whole, injector};

/// A pass takes a little more than half a second.
const PASS_MS: u64 = 600;

/// Each round kills a pass a little later than the previous one; `ROUNDS=5` for a release. `cycles`
/// covers every step separately.
fn rounds() -> u64 {
    std::env::var("ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2)
}

/// A moment within this round's part of a pass.
fn moment(round: u64) -> Duration {
    let part = PASS_MS / rounds();
    Duration::from_millis(part * round + u64::from(rand::random::<u16>()) % part)
}

/// A pass of the command line that is killed after this time; slow enough to be interrupted
/// anywhere.
async fn killed_pass(world: &World, after: Duration) {
    let mysql = &shared().await.mysql;
    let proxy = mysql.proxy().await.unwrap();
    let url = mysql.database_url_via(&proxy, world.database());
    let known = world
        .sql
        .number("SELECT COUNT(*) FROM reconcile_runs")
        .await;
    let process = world.start("firstcome-reconciler", &["once"], &[("DATABASE_URL", &url)]);
    eventually("the pass has begun", LIMIT, async || {
        process.status().is_some()
            || world
                .sql
                .number("SELECT COUNT(*) FROM reconcile_runs")
                .await
                > known
    })
    .await;
    proxy
        .set(ProxyFault::Delay(Duration::from_millis(15)))
        .await
        .unwrap();
    // Any moment will do: this does not wait for anything to happen.
    tokio::time::sleep(after).await;
    process.kill().await;
}

/// Waits until the dead pass's lock is free and its run is seen to be dead: the next pass.
async fn mended(world: &World) {
    let run = world.once_with(&[], &[]).await;
    assert!(run.code <= 1, "{}", run.log);
    assert_nothing_found(&world.once_with(&[], &[]).await.run());
}

#[tokio::test]
async fn a_pass_killed_anywhere_in_its_repairs_is_completed_by_the_next() {
    let fixture = Fixture::new("d-crashes").await;
    for round in 0..rounds() {
        let (coupon, answers) = fixture.held(&format!("Round {round}"), 60, 30).await;
        let mut injector = injector(&fixture.world, &coupon).await;
        for drift in [
            Drift::Unissued,
            Drift::FailedClaim,
            Drift::FailedSlotTaken,
            Drift::MissingAdmission,
            Drift::SlotConflict,
            Drift::ConflictExchanged,
            Drift::OverAdmitted,
            Drift::Unfilled,
        ] {
            injector.make(drift, 2).await.unwrap();
        }
        killed_pass(&fixture.world, moment(round)).await;
        mended(&fixture.world).await;
        // Two each: readmitted, conflicting, over admitted, promoted.
        assert_settled(&fixture.world, &coupon, 60, 38, &answers).await;
    }
    let killed = "SELECT COUNT(*) FROM reconcile_runs WHERE error LIKE '%ended during the run%'";
    let killed = u64::try_from(fixture.world.sql.number(killed).await).unwrap();
    assert!(
        2 * killed >= rounds(),
        "{killed} of {} passes were killed in the middle",
        rounds()
    );
}

#[tokio::test]
async fn a_pass_killed_while_it_breaks_promises_lists_everybody_affected() {
    let fixture = Fixture::new("d-crash-full").await;
    for round in 0..rounds() {
        let (coupon, answers) = fixture.held(&format!("Full {round}"), 20, 20).await;
        let mut injector = injector(&fixture.world, &coupon).await;
        let mut broken = injector.make(Drift::OverAdmitted, 2).await.unwrap().people;
        broken.extend(injector.make(Drift::SlotConflict, 2).await.unwrap().people);
        killed_pass(&fixture.world, moment(round)).await;
        mended(&fixture.world).await;
        assert_settled(&fixture.world, &coupon, 20, 20, &answers).await;
        let listed = format!(
            "SELECT user_id FROM broken_promises WHERE drop_id = {}",
            coupon.drop
        );
        let mut listed = fixture.world.sql.query(&listed).await.concat();
        let mut wanted: Vec<String> = broken.into_iter().map(|hit| hit.user).collect();
        listed.sort();
        wanted.sort();
        assert_eq!(listed, wanted);
    }
}

/// Retries claims on 503 until there is another answer.
async fn patient(api: &ApiClient, coupon: i64, user: String) -> PromisedAnswer {
    let answer = eventually_some(
        &format!("{user} gets an answer"),
        Duration::from_secs(90),
        async || match api.claim(coupon, &user).await {
            Answer::Problem(503, code) => Err(code),
            Answer::Unknown(error) => Err(error),
            answer => Ok(answer),
        },
    )
    .await;
    (user, answer)
}

/// People arrive, a few at a time, until it is over.
async fn crowd(api: &ApiClient, coupon: i64, over: &Cell<bool>) -> Vec<PromisedAnswer> {
    let still =
        futures_util::stream::iter(0..25_000).take_while(|_| std::future::ready(!over.get()));
    still
        .map(|n| patient(api, coupon, format!("u-{n}")))
        .buffer_unordered(3)
        .collect()
        .await
}

/// Injects all kinds of drift repeatedly until everyone has an answer.
async fn trouble(world: &World, coupon: &MadeCoupon) -> usize {
    let kinds = [
        Drift::Unissued,
        Drift::MissingAdmission,
        Drift::MissingMoved,
        Drift::CountHigher,
        Drift::SlotConflict,
        Drift::FailedClaim,
        Drift::ConflictExchanged,
        Drift::CountLower,
        Drift::Unpublished,
        Drift::MissingClaimants,
        Drift::OverAdmitted,
        Drift::FailedSlotTaken,
        Drift::RedisLost,
    ];
    let mut made = 0;
    for drift in kinds.iter().cycle() {
        // Drift that cannot be injected at the moment is skipped: nothing stands still here.
        if injector(world, coupon).await.make(*drift, 2).await.is_ok() {
            made += 1;
        }
        let runs = "SELECT COUNT(*) FROM reconcile_runs";
        let ended = format!("{runs} WHERE status <> 'running'");
        let begun = world.sql.number(runs).await;
        eventually("a whole pass", LIMIT, async || {
            world.sql.number(&ended).await > begun
        })
        .await;
        if made >= kinds.len() {
            return made;
        }
    }
    made
}

#[tokio::test]
async fn repairs_during_live_traffic_break_no_promise() {
    let fixture = Fixture::new("d-chaos").await;
    let world = &fixture.world;
    let coupon = fixture
        .api
        .create_coupon(&coupon_body("Chaos", 30_000, 0))
        .await;
    let settings = [
        ("RECONCILE_CRON", "* * * * * *"),
        ("PUBLISH_DEADLINE_MS", "2000"),
        ("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "500"),
    ];
    let daemon = world.daemon_with(&settings).await;
    let over = Cell::new(false);
    let trouble = async {
        let made = trouble(world, &coupon).await;
        over.set(true);
        made
    };
    let (made, answers) = tokio::join!(trouble, crowd(&fixture.api, coupon.id, &over));
    assert!(made >= 13, "{made}");
    assert!(
        answers
            .iter()
            .all(|(_, answer)| answer.promised().is_some()),
        "everyone gets one"
    );
    eventually("the consumer has caught up", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    assert_eq!(daemon.process.stop().await, 0);
    mended(world).await;
    let issued = rows(world, coupon.drop).await.len();
    assert!(
        issued >= answers.len() && answers.len() > 500,
        "{issued} rows, {} people",
        answers.len()
    );
    assert_whole(world, &coupon, 30_000, issued).await;
    // Everyone has one. If Redis was changed during a pass, two users were promised the same slot;
    // the row won.
    let holders: HashMap<String, u32> = rows(world, coupon.drop)
        .await
        .into_iter()
        .map(|(slot, user)| (user, slot))
        .collect();
    let elsewhere = answers.iter().filter(|(user, answer)| {
        let slot = holders
            .get(user)
            .unwrap_or_else(|| panic!("{user} got {answer:?} and has nothing"));
        answer.promised() != Some((coupon.drop, *slot))
    });
    let elsewhere = elsewhere.count();
    assert!(
        elsewhere <= 10,
        "{elsewhere} users have another slot than promised"
    );
    let broken = world
        .sql
        .query("SELECT user_id, reason FROM broken_promises")
        .await;
    assert!(broken.is_empty(), "{broken:?}");
}
