//! Problems that only a person can resolve, resolved at the operations page: a dead letter of a
//! wrong claim, a promise that cannot be kept, and many useless dead letters.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, MadeCoupon, OPS_TOKEN, assert_nothing_found, rows};
use reqwest::Method;
use reqwest::header::ORIGIN;
use serde_json::json;

use super::page::{VIEW_TOKEN, Visitor, filled_in};
use crate::drift::support::{injector, mailed};

async fn act(visitor: &Visitor, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let csrf = visitor.csrf().await;
    let form: Vec<_> = [("csrf", csrf.as_str())]
        .into_iter()
        .chain(fields.iter().copied())
        .collect();
    let request = visitor
        .request(Method::POST, path)
        .header(ORIGIN, &visitor.base);
    let answer = filled_in(request, &form).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn acts(f: &Fixture, action: &str) -> Vec<Vec<String>> {
    let acts = "SELECT operator, drop_id, from_addr, detail FROM ops_actions WHERE action";
    f.world.sql.query(&format!("{acts} = '{action}'")).await
}

#[tokio::test]
async fn a_dead_letter_of_a_wrong_slot_is_corrected_and_the_next_pass_issues_it() {
    let f = Fixture::new("hand-correct").await;
    let (coupon, _) = f.held("Winter coupon", 20, 19).await;
    let MadeCoupon { id, drop, .. } = coupon;
    let daemon = f.world.daemon().await;
    let letter =
        "INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, reason) VALUES (801, ";
    f.world
        .sql
        .query(&format!(
            "{letter}{id}, {drop}, 412, 'c-lost-4711', 'slot_out_of_range')"
        ))
        .await;
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed", "1 unrepaired failed claim"]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/dead-letters/801").await;
    let why = "Failed claim 801 (slot_out_of_range): the drop has no such slot, and Redis does not know its user";
    assert!(
        page.contains("Why it stays:") && page.contains(why),
        "{page}"
    );
    assert!(
        !page.contains("Correct dead letter") && !page.contains("c-lost-4711"),
        "{page}"
    );
    let (_, page) = act(&kim, "/dead-letters/801/reveal", &[]).await;
    assert!(
        page.contains("Correct dead letter 801") && page.contains("value=\"412\""),
        "{page}"
    );

    let own_coupon = id.to_string();
    let own_drop = drop.to_string();
    let correct = async |drop: &str, slot: &str, person: &str, name: &str| {
        let fields = [
            ("coupon", own_coupon.as_str()),
            ("drop", drop),
            ("slot", slot),
            ("person", person),
            ("name", name),
        ];
        act(&kim, "/dead-letters/801/correct", &fields).await
    };
    for (drop, slot, person, name, why) in [
        (
            own_drop.as_str(),
            "21",
            "c-lost-4711",
            "Winter coupon",
            "the slots 1 to 20",
        ),
        (
            &own_drop,
            "0",
            "c-lost-4711",
            "Winter coupon",
            "the slots 1 to 20",
        ),
        (&own_drop, "7", "no id", "Winter coupon", "user id has"),
        (
            &own_drop,
            "7",
            "c-lost-4711",
            "Winter",
            "not the coupon&#39;s name",
        ),
        ("4711", "7", "c-lost-4711", "Winter coupon", "no such drop"),
    ] {
        let (status, said) = correct(drop, slot, person, name).await;
        assert!(
            status == 400 && said.contains(why),
            "{why}: {status} {said}"
        );
        assert!(
            said.contains(&format!("name=\"slot\" value=\"{slot}\"")),
            "the typed values are shown again: {said}"
        );
    }
    let stands = "SELECT slot, user_id FROM failed_claims WHERE id = 801";
    assert_eq!(f.world.sql.query(stands).await, [["412", "c-lost-4711"]]);

    // The slot belongs to somebody else and is not taken from them.
    assert_eq!(
        correct(&own_drop, "7", "c-lost-4711", "Winter coupon")
            .await
            .0,
        303
    );
    daemon.reconcile(&json!({})).await;
    assert_eq!(
        rows(&f.world, drop).await.get(&20).map(String::as_str),
        Some("c-lost-4711")
    );
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    assert_nothing_found(&f.world.pass().await);
    assert_eq!(
        correct(&own_drop, "7", "c-lost-4711", "Winter coupon")
            .await
            .0,
        409
    );
    let recorded = acts(&f, "correct_dead_letter").await;
    assert!(
        recorded.len() == 1 && recorded[0][..3] == ["Kim", own_drop.as_str(), "127.0.0.1"],
        "{recorded:?}"
    );
    assert!(recorded[0][3].contains("412"), "{recorded:?}");
}

#[tokio::test]
async fn a_promise_that_cannot_be_kept_is_closed_at_the_story_and_its_alert_ends() {
    let f = Fixture::new("hand-give-up").await;
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    let daemon = f.world.daemon().await;
    let done = injector(&f.world, &coupon)
        .await
        .make(Drift::OverShrunk, 2)
        .await
        .unwrap();
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed", "2 broken promises"]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let coupon_id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let open = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    for (n, hit) in (1..).zip(&done.people) {
        let whom = [
            ("coupon", coupon_id.as_str()),
            ("drop", drop.as_str()),
            ("person", hit.user.as_str()),
        ];
        let (_, story) = act(&kim, "/people", &whom).await;
        assert!(
            story.contains(&format!("Record that 1 person was informed, drop {drop}")),
            "{story}"
        );
        let named = |name| whom.into_iter().chain([("name", name)]).collect::<Vec<_>>();
        let (status, page) = act(&kim, "/people/give-up", &named("Winter")).await;
        assert!(
            status == 400 && page.contains("name=\"name\" value=\"Winter\""),
            "{status} {page}"
        );
        assert_eq!(
            act(&kim, "/people/give-up", &named("Winter coupon"))
                .await
                .0,
            303
        );
        assert!(
            kim.text("/people?done=given-up")
                .await
                .contains("Noted. Search for them again to see it.")
        );
        let (status, story) = act(&kim, "/people", &whom).await;
        assert!(
            status == 200 && !story.contains("Record that 1 person was informed"),
            "{status} {story}"
        );
        assert_eq!(f.world.sql.number(open).await, 2 - n);
        assert_eq!(
            act(&kim, "/people/give-up", &named("Winter coupon"))
                .await
                .0,
            409
        );
    }
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    let recorded = acts(&f, "give_up_promise").await;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(
        recorded
            .iter()
            .all(|act| act[..3] == ["Kim", drop.as_str(), "127.0.0.1"]),
        "{recorded:?}"
    );
    assert_nothing_found(&f.world.pass().await);
}

#[tokio::test]
async fn discarding_by_reason_excludes_dead_letters_that_arrived_later() {
    let f = Fixture::new("hand-discard").await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let insert = async |from: u32, to: u32, reason: &str| {
        let rows: Vec<String> = (from..to)
            .map(|id| format!("({id}, NULL, 999999, {id}, '{reason}')"))
            .collect();
        let columns = "(id, coupon_id, drop_id, slot, reason)";
        f.world
            .sql
            .query(&format!(
                "INSERT INTO failed_claims {columns} VALUES {}",
                rows.join(",")
            ))
            .await;
    };
    insert(1_000, 2_200, "many").await;
    insert(2_200, 2_203, "few & odd").await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let all = kim.text("/dead-letters").await;
    for choice in [
        "<option value=\"many\">many (1,200)</option>",
        ">few &#38; odd (3)</option>",
    ] {
        assert!(all.contains(choice), "{choice} in {all}");
    }
    assert!(
        !all.contains("Discard all that match"),
        "nothing is filtered: {all}"
    );
    let of_many = "/dead-letters?reason=many";
    assert!(!lee.text(of_many).await.contains("Discard all that match"));
    let page = kim.text(of_many).await;
    assert!(page.contains("<option value=\"many\" selected>"), "{page}");
    assert!(
        page.contains("name=\"letters\" value=\"1200\"")
            && page.contains("name=\"highest\" value=\"2199\"")
    );
    assert!(
        page.contains(">Discard 1,200 dead letters</button>"),
        "{page}"
    );

    // More arrive after Kim has looked, and a pass resolves one of those that were there.
    insert(3_000, 3_002, "many").await;
    f.world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'x' WHERE id = 1000")
        .await;
    let discard = async |visitor: &Visitor, reason: &str, why: &str, number: &str| {
        let seen = [("letters", "1200"), ("highest", "2199")];
        let typed = [
            ("reason", reason),
            ("drop", ""),
            ("why", why),
            ("number", number),
        ];
        act(
            visitor,
            "/dead-letters/discard",
            &[&seen[..], &typed].concat(),
        )
        .await
    };
    assert_eq!(discard(&lee, "many", "a script", "1200").await.0, 403);
    for (reason, why, number, says) in [
        ("many", " ", "1200", "Say why"),
        ("many", "a script", "120", "not the number"),
        ("", "a script", "1200", "Choose a reason"),
    ] {
        let (status, said) = discard(&kim, reason, why, number).await;
        assert!(
            status == 400 && said.contains(says),
            "{says}: {status} {said}"
        );
        let typed = format!("name=\"number\" value=\"{number}\"");
        assert!(
            reason.is_empty() || said.contains(&typed),
            "the typed values are shown again: {said}"
        );
    }
    let open = "SELECT reason, COUNT(*) FROM failed_claims WHERE resolved_at IS NULL GROUP BY reason ORDER BY reason";
    assert_eq!(
        f.world.sql.query(open).await,
        [["few & odd", "3"], ["many", "1201"]]
    );
    assert_eq!(discard(&kim, "many", "a script", "1,200").await.0, 303);
    assert_eq!(
        f.world.sql.query(open).await,
        [["few & odd", "3"], ["many", "2"]]
    );
    assert_eq!(
        discard(&kim, "many", "a script", "1200").await.0,
        409,
        "a double click"
    );
    let recorded = acts(&f, "discard_dead_letters").await;
    assert!(
        recorded.len() == 1 && recorded[0][..3] == ["Kim", "NULL", "127.0.0.1"],
        "{recorded:?}"
    );
    let detail: serde_json::Value = serde_json::from_str(&recorded[0][3]).unwrap();
    assert_eq!(
        detail,
        json!({"dead_letters": 1199, "reason": "many", "highest": 2199})
    );
    assert!(
        kim.text("/dead-letters?status=resolved")
            .await
            .contains("by_hand: a script (Kim)")
    );
    let page = kim.text("/dead-letters?drop=999999").await;
    assert!(
        page.contains(">Discard 5 dead letters</button>"),
        "filtered by drop too: {page}"
    );
}
