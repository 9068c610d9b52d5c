//! Input validation of both services, and its error messages.

use firstcome_testkit::{Http, OPS_TOKEN, coupon_body, open_world};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::operators::firing_alert;

#[derive(Clone, Copy)]
struct ExpectedRefusal {
    status: u16,
    code: &'static str,
    /// Words that the error detail must contain.
    says: &'static str,
}

const fn invalid(says: &'static str) -> ExpectedRefusal {
    ExpectedRefusal {
        status: 400,
        code: "invalid",
        says,
    }
}

const fn missing(says: &'static str) -> ExpectedRefusal {
    ExpectedRefusal {
        status: 404,
        code: "not_found",
        says,
    }
}

const TOO_LARGE: ExpectedRefusal = ExpectedRefusal {
    status: 413,
    code: "too_large",
    says: "a body may have at most 16384 bytes",
};

const UNAUTHORISED: ExpectedRefusal = ExpectedRefusal {
    status: 401,
    code: "unauthorized",
    says: "OPS_TOKEN",
};

async fn assert_refused(request: RequestBuilder, refusal: ExpectedRefusal) {
    let ExpectedRefusal { status, code, says } = refusal;
    let reply = Http::send(request).await;
    let found = (
        reply.status,
        reply.content_type.as_str(),
        reply.body["code"].as_str(),
    );
    let expected = (status, "application/problem+json", Some(code));
    assert_eq!(found, expected, "{says}: {}", reply.text);
    let detail = reply.body["detail"].as_str().unwrap();
    assert!(detail.contains(says), "{says}: {detail}");
}

#[tokio::test]
async fn both_services_validate_bodies_queries_paths_and_names_alike() {
    let (world, api) = open_world("edges").await;
    let coupon = api.open_coupon(3).await;
    let daemon = world.daemon().await;
    firing_alert(&world, &coupon).await;
    let written = "SELECT (SELECT COUNT(*) FROM reconcile_runs) + COUNT(*) FROM ops_actions";
    let before = world.sql.number(written).await;
    for (http, post, page) in [
        (api.http(), "/v1/coupons", "/v1/coupons"),
        (daemon.http(), "/v1/reconcile", "/v1/runs"),
    ] {
        let too_long = "x".repeat(17_000);
        for (body, refusal) in [
            ("[null,null]", invalid("the body must be a JSON object")),
            ("\t", invalid("the body must be a JSON object")),
            (" \n", invalid("the body must be a JSON object")),
            ("{\"quantitiy\": 1}", invalid("unknown field `quantitiy`")),
            (&too_long, TOO_LARGE),
        ] {
            let request = http.ops(Method::POST, post).body(body.to_owned());
            assert_refused(request, refusal).await;
        }
        for (query, refusal) in [
            ("?limit=many", invalid("limit: invalid digit")),
            ("?most=3", invalid("unknown field `most`")),
            ("/%FF", missing("")),
            ("/%F0%9F%98%80", missing("there is no")),
        ] {
            let request = http.ops(Method::GET, &format!("{page}{query}"));
            assert_refused(request, refusal).await;
        }
        let empty = || http.request(Method::POST, post).body("{}");
        for name in ["Kim\u{202e}", "K\u{200b}im", " "] {
            let request = empty().bearer_auth(OPS_TOKEN);
            let request = request.header("x-operator", name.as_bytes());
            assert_refused(request, invalid("X-Operator")).await;
        }
        let authorised = || empty().bearer_auth(OPS_TOKEN);
        let twice = authorised().header("authorization", "Bearer another");
        assert_refused(twice, invalid("one Authorization header")).await;
        let twice = authorised()
            .header("x-operator", "Kim")
            .header("x-operator", "Lee");
        assert_refused(twice, invalid("one X-Operator header")).await;
        assert_refused(http.request(Method::POST, post), UNAUTHORISED).await;
    }

    let ops = |method, path: &str| daemon.http().ops(method, path);
    for id in ["077", "+77", "%2B77"] {
        let path = format!("/v1/alerts/{id}/acknowledge");
        let request = ops(Method::POST, &path).json(&json!({"by": "Kim"}));
        assert_refused(request, missing("there is no alert")).await;
    }
    let id = coupon.id.to_string();
    let coded: Vec<String> = id.bytes().map(|digit| format!("%{digit:02X}")).collect();
    let coded = coded.concat();
    for id in [format!("0{id}"), format!("+{id}"), coded] {
        let no_coupon = missing("there is no coupon");
        let person = format!("/v1/coupons/{id}/people/u-1");
        assert_refused(ops(Method::GET, &person), no_coupon).await;
        let path = format!("/v1/coupons/{id}");
        assert_refused(api.http().ops(Method::GET, &path), no_coupon).await;
    }
    for (person, says) in [
        ("u%201", "user_id: a user id has"),
        ("u-1?drop=1", "unknown field `drop`"),
    ] {
        let path = format!("/v1/coupons/{id}/people/{person}");
        assert_refused(ops(Method::GET, &path), invalid(says)).await;
    }
    let confirm = ops(Method::POST, "/v1/reconcile").json(&json!({"confirm": true}));
    assert_refused(confirm, invalid("confirm needs")).await;
    let create = || api.http().ops(Method::POST, "/v1/coupons");
    let mut body = coupon_body("x", 1, 0);
    body["schedule"] = json!(null);
    let says = "schedule";
    assert_refused(create().json(&body), invalid(says)).await;
    for name in ["a\u{202e}b", "a\u{200f}b", "a\u{200b}b"] {
        let request = create().json(&coupon_body(name, 1, 0));
        assert_refused(request, invalid("name must not hold")).await;
    }
    let after = world.sql.number(written).await;
    assert_eq!(after, before, "a refused request writes nothing");
}
