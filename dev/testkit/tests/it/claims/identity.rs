//! User IDs that contain the separators of our keys and fields: Auth0's IDs contain `|`, URNs
//! contain `:`.

use firstcome_reconciler::report::Status;
use firstcome_testkit::{
    Answer, Fixture, Http, LIMIT, all_issued, assert_exact, coupon_body, eventually,
};
use reqwest::Method;
use serde_json::json;

use crate::drift::support::lose_rows;

/// Returns valid user IDs that look like a drop with a slot, a group, or a formula.
fn odd_ids(drop: i64) -> [String; 8] {
    let own = format!("{drop}:1");
    [
        "auth0|5f7c",
        "urn:shop:user=1",
        "7:7:7",
        &own,
        "-2+3",
        "=cmd|x",
        "a.b_c@d+e-f|g:h=i",
        "|:=",
    ]
    .map(str::to_owned)
}

fn encoded(id: &str) -> String {
    id.bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect::<Vec<_>>()
        .concat()
}

#[tokio::test]
async fn user_ids_with_separators_work_in_claims_returns_and_repairs() {
    let fixture = Fixture::new("odd-ids").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let daemon = world.daemon().await;
    let coupon = api.create_coupon(&coupon_body("Odd ids", 7, 5)).await;
    let ids = odd_ids(coupon.drop);
    let mut answers = Vec::new();
    let drop = coupon.drop;
    for (slot, id) in (1..).zip(&ids[..7]) {
        let answer = api.claim(coupon.id, id).await;
        assert!(answer.is_accepted(), "{id}: {answer:?}");
        assert_eq!(answer.promised(), Some((drop, slot)), "{id}");
        let again = api.claim(coupon.id, id).await;
        assert_eq!(again, Answer::Already { drop, slot }, "{id}");
        answers.push((id.clone(), answer));
    }
    assert!(matches!(
        api.claim(coupon.id, &ids[7]).await,
        Answer::Waiting { .. }
    ));
    all_issued(world, coupon.drop, 7).await;
    assert_exact(world, &coupon, 7, &answers).await;

    // A lost row and a lost admission are restored for the same user.
    lose_rows(world, &coupon, "= 2").await;
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    world.redis.command::<i64>(&["ZREM", &users, &ids[3]]).await;
    let run = daemon.reconcile(&json!({"coupon_id": coupon.id})).await;
    assert_eq!(run.status, Status::Repaired, "{run:#?}");
    assert_exact(world, &coupon, 7, &answers).await;

    for id in &ids[..7] {
        let path = format!("/v1/coupons/{}/people/{}", coupon.id, encoded(id));
        let story = Http::send(daemon.http().ops(Method::GET, &path)).await.body;
        assert_eq!(
            (&story["user_id"], &story["holds"]),
            (&json!(id), &json!("issued")),
            "{story}"
        );
    }
    // A return and a revocation affect only the user they name, and the slot goes to the next user
    // in line.
    let revoked = json!({"reason": "bought by a script", "by": "Kim"});
    let revoked = api.revoke(coupon.id, &encoded(&ids[3]), &revoked).await;
    assert_eq!(revoked, Ok((drop, Some(4))));
    let given_back = api.give_back(coupon.id, &ids[0]).await;
    assert_eq!(given_back, Ok((drop, Some(1))));
    // The pass may run in the middle of a revocation.
    eventually(
        "every drop is exact, or has a free slot",
        LIMIT,
        async || {
            let run = daemon.reconcile(&json!({"coupon_id": coupon.id})).await;
            run.drops.iter().all(|drop| drop.exact) || run.status == Status::Drift
        },
    )
    .await;
    for (id, status) in [
        (&ids[0], "revoked"),
        (&ids[3], "revoked"),
        (&ids[7], "issued"),
        (&ids[2], "issued"),
    ] {
        assert_eq!(api.me(coupon.id, id).await["status"], status, "{id}");
    }
}
