//! The coupon page as the API delivers it. `pages/` in dev/harness/tests/it tests its behaviour in
//! a browser.

use firstcome_stack::ProxyFault;
use reqwest::Method;

use super::stores_away::{behind_mysql, behind_redis};
use super::world::{HttpAnswer, InProcessApi, ServeWorld, coupon, open, with};

async fn page(
    api: &InProcessApi,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, HttpAnswer) {
    let answer = api.ask(Method::GET, path, headers, "").await;
    (
        answer.status,
        answer.json.as_str().unwrap_or_default().to_owned(),
        answer,
    )
}

fn header<'a>(answer: &'a HttpAnswer, name: &str) -> &'a str {
    answer
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn page_is_off_by_default() {
    let (_world, api) = ServeWorld::with_api().await;
    let (id, _) = api.make(open(1)).await;
    for path in [
        format!("/c/{id}"),
        format!("/c/{id}/state"),
        "/c/assets/page-0.js".into(),
    ] {
        assert_eq!(api.get(&path).await.code(), (404, "not_found"), "{path}");
    }
}

#[tokio::test]
async fn page_and_assets_are_cacheable_and_load_nothing_else() {
    let api = ServeWorld::new()
        .await
        .with("coupon-page", "on")
        .api()
        .await;
    let (id, _) = api
        .make(with(open(1_500), "name", "<b>Winter</b> & \"more\""))
        .await;
    let path = format!("/c/{id}");
    let (status, html, answer) = page(&api, &path, &[]).await;
    assert_eq!(
        (status, header(&answer, "content-language")),
        (200, "en"),
        "{html}"
    );
    assert!(
        html.contains("<h1>&#60;b&#62;Winter&#60;/b&#62; &#38; &#34;more&#34;</h1>"),
        "{html}"
    );
    assert!(html.contains("1,500 coupons"), "{html}");
    assert_eq!(header(&answer, "cache-control"), "public, max-age=10");
    assert_eq!(header(&answer, "vary"), "accept-language");

    let assets: Vec<&str> = html
        .split('"')
        .filter(|part| part.starts_with("assets/"))
        .collect();
    assert_eq!(assets.len(), 3, "{html}");
    for asset in &assets {
        let (status, content, asset) = page(&api, &format!("/c/{asset}"), &[]).await;
        assert_eq!((status, content.is_empty()), (200, false));
        assert_eq!(
            header(&asset, "cache-control"),
            "public, max-age=31536000, immutable"
        );
    }
    let (_, korean, answer) = page(
        &api,
        &path,
        &[("accept-language", "ko-KR,ko;q=0.9,en;q=0.8")],
    )
    .await;
    assert!(
        korean.contains("선착순 1,500장") && header(&answer, "content-language") == "ko",
        "{korean}"
    );

    for (path, status) in [
        ("/c/4711", 404),
        ("/c/01", 404),
        ("/c/assets/other.js", 404),
        (path.as_str(), 200),
    ] {
        let (found, _, answer) = page(&api, path, &[]).await;
        assert_eq!(found, status, "{path}");
        let policy = header(&answer, "content-security-policy");
        let is_strict = policy.starts_with("default-src 'none'; script-src 'self';");
        assert!(is_strict && !policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer");
    }
    let (_, html, _) = page(&api, "/c/4711", &[]).await;
    assert!(html.contains("There is no such coupon"), "{html}");
}

#[tokio::test]
async fn page_and_state_come_from_memory_while_both_stores_are_down() {
    let world = ServeWorld::new().await;
    let (world, mysql) = behind_mysql(&world).await;
    let (world, redis) = behind_redis(&world).await;
    let api = world.with("coupon-page", "on").api().await;
    let (id, _) = api.make(open(5)).await;
    let (later, _) = api.make(coupon(7, 30..=60)).await;
    for store in [&mysql, &redis] {
        store.set(ProxyFault::BlackHole).await.unwrap();
    }
    let (status, html, _) = page(&api, &format!("/c/{id}"), &[]).await;
    assert_eq!(status, 200, "{html}");
    let state = async |id: i64| {
        let answer = api.get(&format!("/c/{id}/state")).await;
        assert_eq!(
            (answer.status, header(&answer, "cache-control")),
            (200, "no-store")
        );
        assert!(answer.json["now_ms"].is_i64(), "{answer:?}");
        answer.json["coupon"].clone()
    };
    assert_eq!(state(id).await["current_drop"]["state"], "open");
    assert_eq!(state(later).await["next_drop"]["quantity"], 7);
    let (status, html, answer) = page(&api, "/c/4711", &[]).await;
    assert_eq!(
        (status, header(&answer, "retry-after")),
        (503, "3"),
        "{html}"
    );
}

#[tokio::test]
async fn page_indicates_whether_a_token_is_required() {
    let world = ServeWorld::new().await.with("coupon-page", "on");
    let with_tokens = world.with_tokens();
    for (world, wants) in [(&world, "false"), (&with_tokens, "true")] {
        let api = world.api().await;
        let (id, _) = api.make(open(1)).await;
        let (_, html, _) = page(&api, &format!("/c/{id}"), &[]).await;
        assert!(html.contains(&format!("data-token=\"{wants}\"")), "{html}");
    }
}
