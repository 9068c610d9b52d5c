//! An API dies while a user returns a coupon.

use firstcome_shared::crash::Point;
use firstcome_testkit::{
    Answer, LIMIT, PromisedAnswer, all_issued, assert_exact, eventually, people, rows, rush,
};

use super::environment::{Environment, dies_at};

/// Three slots. Two users return theirs, and two others claim.
const QUANTITY: u32 = 3;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(QUANTITY).await;
    let users = people(3);
    let answers = rush(&[&environment.api], coupon.id, &users, 1).await;
    all_issued(world, coupon.drop, 3).await;
    for user in &users[..2] {
        let api = world
            .serve_with(&[("FIRSTCOME_CRASH_AT", point.name())])
            .await;
        assert!(matches!(
            api.give_back(coupon.id, user).await,
            Err(Answer::Unknown(_))
        ));
        dies_at(&api.process, point).await;
    }
    environment.mend().await;
    let next: Vec<String> = ["n-1", "n-2"].map(str::to_owned).into();
    let mut kept: Vec<PromisedAnswer> = answers
        .into_iter()
        .filter(|(user, _)| *user == users[2])
        .collect();
    kept.extend(rush(&[&environment.api], coupon.id, &next, 1).await);
    assert!(
        kept.iter().all(|(_, answer)| answer.promised().is_some()),
        "{kept:?}"
    );
    for user in &users[..2] {
        assert!(environment.api.claim(coupon.id, user).await.is("revoked"));
        assert_eq!(
            environment.api.me(coupon.id, user).await["status"],
            "revoked"
        );
    }
    eventually("the next users have their rows", LIMIT, async || {
        rows(world, coupon.drop).await.len() == 3
    })
    .await;
    assert_exact(world, &coupon, QUANTITY, &kept).await;
    environment.count(&coupon, QUANTITY as usize, &kept).await;
}
