//! Dead letters on the operations page: an operator finds, reads, corrects and discards them.

use firstcome_testkit::{Fixture, MadeCoupon, OPS_TOKEN, assert_nothing_found, rows};
use serde_json::json;

use super::visitor::{VIEW_TOKEN, Visitor, assert_has, assert_lacks};
use crate::drift::support::mailed;

const INSERT: &str = "INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, reason)";

#[tokio::test]
async fn dead_letters_are_filtered_revealed_and_discarded_and_each_act_is_recorded() {
    let f = Fixture::new("ops-letters").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 1).await;
    let MadeCoupon { id, drop, .. } = coupon;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    // One dead letter names no user, one names no drop, and 51 have another reason.
    sql.query(&format!(
        "INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, payload, reason, error) VALUES \
         (701, {id}, {drop}, 9, NULL, X'7B22757365725F6964223A22', 'undecodable', 'EOF at c-secret-4711@example.com'), \
         (702, NULL, NULL, NULL, 'c-secret-4711', '<script>c-secret-4711', 'by_hand_probe', NULL)"
    ))
    .await;
    let many: Vec<String> = (0..51)
        .map(|n| format!("(NULL, NULL, 999999, {n}, NULL, 'many')"))
        .collect();
    sql.query(&format!("{INSERT} VALUES {}", many.join(",")))
        .await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let line = "coupon –, drop 999999";
    let first = kim.text("/dead-letters?reason=many").await;
    assert_eq!(first.matches(line).count(), 50, "{first}");
    assert_has(&first, &["/dead-letters?page=2&amp;reason=many"]);
    let all = kim.text("/dead-letters").await;
    assert_has(&all, &["href=\"/dead-letters?reason=by_hand_probe\""]);
    let second = kim.text("/dead-letters?page=2&reason=many").await;
    assert_eq!(second.matches(line).count(), 1, "{second}");
    let found = kim.text(&format!("/dead-letters?drop={drop}")).await;
    assert_has(&found, &["/dead-letters/701"]);
    assert_lacks(&found, &["/dead-letters/702"]);
    for path in ["/dead-letters/4711", "/dead-letters/x"] {
        assert_eq!(kim.get(path).await.status(), 404, "{path}");
    }

    for (visitor, path) in [
        (&kim, "/dead-letters?reason=by_hand_probe"),
        (&kim, "/dead-letters/701"),
        (&kim, "/dead-letters/702"),
        (&lee, "/dead-letters/702"),
    ] {
        assert_lacks(&visitor.text(path).await, &["4711", "<script>c"]);
    }
    let page = lee.text("/dead-letters/702").await;
    assert_lacks(&page, &["Discard dead letter"]);
    let message = "&#60;script&#62;c-secret-4711";
    let shown = kim.submit("/dead-letters/702/reveal", &[]).await;
    assert_eq!(shown.status, 200);
    assert_has(&shown.text, &["for c-secret-4711", message]);
    assert_lacks(&shown.text, &["Show the story of"]);
    let shown = lee.submit("/dead-letters/702/reveal", &[]).await;
    assert_eq!(shown.status, 200);
    assert_has(&shown.text, &[message]);
    assert_lacks(&shown.text, &["Correct dead letter"]);

    let discard = async |visitor: &Visitor, letter: u32, [why, sure]: [&str; 2]| {
        let path = format!("/dead-letters/{letter}/discard");
        let form = [("why", why), ("sure", sure)];
        visitor.submit(&path, &form).await
    };
    assert_eq!(discard(&lee, 702, ["junk", "1"]).await.status, 403);
    assert_eq!(discard(&kim, 702, [" ", "1"]).await.status, 400);
    let question = discard(&kim, 701, ["junk", ""]).await;
    assert_eq!(question.status, 200);
    let says = ["name=\"why\" value=\"junk\"", "Are you sure?"];
    assert_has(&question.text, &says);
    assert_lacks(&question.text, &["4711"]);
    let open = "SELECT COUNT(*) FROM failed_claims WHERE id IN (701, 702) AND resolved_at IS NULL";
    assert_eq!(sql.number(open).await, 2);
    let discarded = discard(&kim, 701, ["junk", "1"]).await;
    assert_eq!(discarded.status, 303);
    assert_eq!(discard(&kim, 702, ["junk", "1"]).await.status, 303);
    assert_eq!(discard(&kim, 702, ["junk", "1"]).await.status, 409);
    assert_eq!(sql.number(open).await, 0);
    let resolved = kim.text("/dead-letters?status=resolved").await;
    assert_has(&resolved, &["by_hand: junk (Kim)"]);
    let acts = "SELECT action, operator, from_addr, detail->>'$.dead_letter' FROM ops_actions \
                WHERE operator IN ('Kim', 'Lee') ORDER BY id";
    let expected = [
        ["reveal", "Kim", "127.0.0.1", "702"],
        ["reveal", "Lee", "127.0.0.1", "702"],
        ["discard_dead_letter", "Kim", "127.0.0.1", "701"],
        ["discard_dead_letter", "Kim", "127.0.0.1", "702"],
    ];
    assert_eq!(sql.query(acts).await, expected);
    let with_reason = "SELECT COUNT(*) FROM ops_actions WHERE detail LIKE '%junk%'";
    assert_eq!(sql.number(with_reason).await, 0);

    // If the coupon of the user is known, a button leads to the user's history.
    let letter = format!("VALUES (9703, {id}, {drop}, 999, 'u-1', 'by_hand_probe')");
    sql.query(&format!("{INSERT} {letter}")).await;
    let shown = kim.submit("/dead-letters/9703/reveal", &[]).await.text;
    assert_has(&shown, &["Show the story of u-1", "action=\"/people\""]);
}

#[tokio::test]
async fn a_dead_letter_of_a_wrong_slot_is_corrected_and_the_next_pass_issues_it() {
    let f = Fixture::new("hand-correct").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 19).await;
    let MadeCoupon { id, drop, .. } = coupon;
    let daemon = f.world.daemon().await;
    let letter = format!("VALUES (801, {id}, {drop}, 412, 'c-lost-4711', 'slot_out_of_range')");
    sql.query(&format!("{INSERT} {letter}")).await;
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed", "1 unrepaired failed claim"]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/dead-letters/801").await;
    let why = "Failed claim 801: the drop has no such slot";
    assert_has(&page, &["Why it stays:", why]);
    assert_lacks(&page, &["Correct dead letter", "c-lost-4711"]);
    let page = kim.submit("/dead-letters/801/reveal", &[]).await.text;
    assert_has(&page, &["Correct dead letter 801", "value=\"412\""]);

    let id = id.to_string();
    let own_drop = drop.to_string();
    let own = own_drop.as_str();
    let correct = async |[drop, slot, person, sure]: [&str; 4]| {
        let form = [
            ("coupon", id.as_str()),
            ("drop", drop),
            ("slot", slot),
            ("person", person),
            ("sure", sure),
        ];
        kim.submit("/dead-letters/801/correct", &form).await
    };
    let lost = "c-lost-4711";
    let question = correct([own, "7", lost, ""]).await;
    assert_eq!(question.status, 200);
    let stands_for = format!("slot 7 of drop {own}");
    assert_has(&question.text, &["Are you sure?", &stands_for]);
    for (typed, why) in [
        ([own, "21", lost, "1"], "the slots 1 to 20"),
        ([own, "0", lost, "1"], "the slots 1 to 20"),
        ([own, "7", "no id", "1"], "user id has"),
        (["4711", "7", lost, "1"], "no such drop"),
        (["x", "7", lost, "1"], "by their numbers"),
    ] {
        let refused = correct(typed).await;
        assert_eq!(refused.status, 400, "{typed:?}");
        assert_has(&refused.text, &[why]);
    }
    let stands = "SELECT slot, user_id FROM failed_claims WHERE id = 801";
    assert_eq!(sql.query(stands).await, [["412", lost]]);

    // The slot belongs to another user, who keeps it.
    let right = [own, "7", lost, "1"];
    assert_eq!(correct(right).await.status, 303);
    daemon.reconcile(&json!({})).await;
    let holder = rows(&f.world, drop).await.remove(&20);
    assert_eq!(holder.as_deref(), Some(lost));
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    assert_nothing_found(&f.world.pass().await);
    assert_eq!(correct(right).await.status, 409);
    let acts = "SELECT operator, drop_id, from_addr, detail LIKE '%412%' FROM ops_actions \
                WHERE action = 'correct_dead_letter'";
    assert_eq!(sql.query(acts).await, [["Kim", own, "127.0.0.1", "1"]]);
}
