//! The reconciler's routes that its console uses, called as by other programs: a table of requests
//! and answers.

use firstcome_harness::HttpReply;

use crate::prelude::*;

const VIEW_TOKEN: &str = "only-reads-0123456789abcdef0123456789abc";

#[tokio::test]
async fn routes_refuse_wrong_requests_and_changes_by_viewers_and_record_operators() {
    let f = Fixture::new("routes").await;
    let (coupon, _) = f.held("Winter coupon", 20, 1).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let (id, drop, sql) = (coupon.id, coupon.drop, &f.world.sql);
    let columns = "(id, coupon_id, drop_id, slot, user_id, payload, reason)";
    let rows = format!(
        "(801, {id}, {drop}, 412, 'u-lost', 'as sent', 'slot_out_of_range'), \
         (802, NULL, {drop}, 7, NULL, NULL, 'junk'), (803, NULL, {drop}, 8, NULL, NULL, 'junk')"
    );
    sql.query(&format!(
        "INSERT INTO failed_claims {columns} VALUES {rows}"
    ))
    .await;
    let ask = async |token: &str, method: Method, path: &str, body: &Value| -> HttpReply {
        let request = daemon.http().request(method, path).bearer_auth(token);
        let request = request.header("x-operator", "Kim");
        Http::send(if body.is_null() {
            request
        } else {
            request.json(body)
        })
        .await
    };
    let read = async |path: &str| ask(VIEW_TOKEN, Method::GET, path, &Value::Null).await;
    let listed = read("/v1/failed-claims?reason=junk").await.body;
    let ids = [0, 1, 2].map(|at| listed["failed_claims"][at]["id"].clone());
    assert_eq!(ids, [json!(802), json!(803), Value::Null]);
    let one = read("/v1/failed-claims/801?reveal=true").await.body;
    let found = (&one["user_id"], &one["message"], &one["drop_exists"]);
    assert_eq!(found, (&json!("u-lost"), &json!("as sent"), &json!(true)));
    for (path, status) in [
        ("/v1/overview", 200),
        ("/v1/overview?page=0", 400),
        ("/v1/coupons/4711/drops", 404),
        ("/v1/coupons/01/drops", 404),
        (&format!("/v1/coupons/{id}/drops/4711"), 404),
        ("/v1/failed-claims/4711", 404),
        ("/v1/people", 400),
        ("/v1/people?user_id=u-1&slot=1", 400),
    ] {
        assert_eq!(read(path).await.status, status, "{path}");
        let stranger = daemon.http().get(path).await.status;
        assert_eq!(stranger, 401, "{path}: without a token");
    }

    let claim =
        |slot: u32| json!({"coupon_id": id, "drop_id": drop, "slot": slot, "user_id": "u-lost"});
    let why = |why: &str| json!({"why": why});
    let [correct, discard] =
        ["correct", "discard"].map(|act| format!("/v1/failed-claims/801/{act}"));
    let give_up = format!("/v1/coupons/{id}/people/u-1/give-up");
    #[rustfmt::skip]
    let changes: [(&str, &str, Value, u16, &str); 14] = [
        (VIEW_TOKEN, &correct, claim(9), 403, "read_only"),
        (VIEW_TOKEN, &discard, why("a script"), 403, "read_only"),
        (VIEW_TOKEN, "/v1/alerts/77/acknowledge", json!({"by": "Lee"}), 403, "read_only"),
        (VIEW_TOKEN, "/v1/reconcile", json!({}), 403, "read_only"),
        (OPS_TOKEN, &correct, claim(21), 400, "invalid"),
        (OPS_TOKEN, "/v1/failed-claims/4711/correct", claim(9), 404, "not_found"),
        (OPS_TOKEN, &correct, claim(9), 200, ""),
        (OPS_TOKEN, &discard, why(" "), 400, "invalid"),
        (OPS_TOKEN, &discard, why("a script"), 200, ""),
        (OPS_TOKEN, &discard, why("a script"), 409, "already_resolved"),
        (OPS_TOKEN, &correct, claim(9), 409, "already_resolved"),
        (OPS_TOKEN, "/v1/failed-claims/4711/discard", why("a script"), 404, "not_found"),
        (OPS_TOKEN, "/v1/failed-claims/802/discard", why("a script"), 200, ""),
        (OPS_TOKEN, &give_up, json!({"drop_id": drop}), 409, "nothing_broken"),
    ];
    for (token, path, body, status, code) in changes {
        let reply = ask(token, Method::POST, path, &body).await;
        let found = reply.body["code"].as_str().unwrap_or_default();
        assert_eq!((reply.status, found), (status, code), "{path} {body}");
    }
    let open = "SELECT GROUP_CONCAT(id) FROM failed_claims WHERE resolved_at IS NULL";
    assert_eq!(sql.query(open).await, [["803"]]);
    let acts = "SELECT action FROM ops_actions WHERE operator = 'Kim' ORDER BY id";
    let acts = sql.query(acts).await.concat();
    let discarded = "discard_dead_letter";
    assert_eq!(
        acts,
        ["reveal", "correct_dead_letter", discarded, discarded]
    );
}
