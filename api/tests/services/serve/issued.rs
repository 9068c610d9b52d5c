//! The list of issued coupons.

use std::fmt::Display;

use chrono::NaiveDate;
use firstcome_shared::domain::DropId;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, ServeWorld, open, stack, with};

async fn ask(api: &InProcessApi, path: &str, accept: &str) -> HttpAnswer {
    let token = format!("Bearer {OPS_TOKEN}");
    let headers = [("authorization", token.as_str()), ("accept", accept)];
    api.ask(Method::GET, path, &headers, "").await
}

async fn fill(world: &ServeWorld, coupon: i64, drop: DropId, rows: u32) {
    let insert = "INSERT INTO {db}.issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope)";
    let numbers = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    );
    let row = format!(
        "{drop}, i, {coupon}, CONCAT(REPEAT('u', 50), '-', i), 'consumer', l.slot_limit, l.person_scope"
    );
    let select = format!(
        "SELECT /*+ SET_VAR(cte_max_recursion_depth = 100000) */ {row} FROM n JOIN {{db}}.slot_limits l ON l.drop_id = {drop} AND l.slot_limit >= {rows}"
    );
    world.sql(&format!("{insert} {numbers} {select}")).await;
}

/// Returns the rows of all pages from `first` on.
async fn walk(api: &InProcessApi, first: String) -> Vec<Value> {
    let mut next = Some(first);
    let mut all = Vec::new();
    while let Some(path) = next {
        let page = ask(api, &path, "application/json").await;
        assert_eq!(
            (page.status, &page.headers["cache-control"]),
            (200, &"no-store".parse().unwrap()),
            "{page:?}"
        );
        all.extend(page.json["issued"].as_array().unwrap().iter().cloned());
        next = page.json["next"].as_str().map(str::to_owned);
    }
    all
}

#[tokio::test]
async fn pages_and_csv_list_all_rows_by_drop_and_slot() {
    let (world, api) = ServeWorld::with_api().await;
    let schedule = json!({"type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00", "first_day": "2026-01-01"});
    let (id, today) = api
        .make(with(
            with(open(5_000), "schedule", schedule),
            "once_per",
            "drop",
        ))
        .await;
    let drops = world
        .sql(&format!(
            "SELECT id FROM {{db}}.drops WHERE coupon_id = {id} ORDER BY opens_at"
        ))
        .await;
    let last: i64 = drops.last().unwrap()[0].parse().unwrap();
    let (other, other_drop) = api.make(open(5)).await;
    fill(&world, id, DropId(today), 4_500).await;
    fill(&world, id, DropId(last), 7).await;
    fill(&world, other, DropId(other_drop), 1).await;
    let path = format!("/v1/coupons/{id}/issued");

    let all = walk(&api, path.clone()).await;
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    let places: Vec<(i64, i64)> = all
        .iter()
        .map(|row| (number(row, "drop_id"), number(row, "slot")))
        .collect();
    let expected = (1..=4_500)
        .map(|slot| (today, slot))
        .chain((1..=7).map(|slot| (last, slot)));
    assert!(places.iter().copied().eq(expected), "{} rows", places.len());
    assert_eq!(walk(&api, format!("{path}?limit=999")).await, all);
    assert_eq!(
        walk(&api, format!("{path}?limit=1&drop_id={last}&after_slot=5")).await,
        all[4_505..]
    );
    assert_eq!(
        walk(&api, format!("{path}?after_slot=4499")).await,
        all[4_499..]
    );
    assert_eq!(
        walk(&api, format!("/v1/coupons/{other}/issued"))
            .await
            .len(),
        1
    );

    let csv = ask(&api, &path, "text/csv").await;
    let file = format!("attachment; filename=\"coupon-{id}-issued.csv\"");
    for (name, value) in [
        ("content-type", "text/csv; charset=utf-8; header=present"),
        ("content-disposition", &*file),
        ("cache-control", "no-store"),
        ("vary", "Accept"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(csv.headers[name], value);
    }
    let text = csv.json.as_str().unwrap();
    let mut lines = text.split_terminator("\r\n");
    let names = "drop_id,slot,user_id,code,claimed_local,claimed_at,issued_at,issued_by,\
                 used_at,reference,used_by,expires_at";
    assert_eq!(lines.next(), Some(&*format!("\u{feff}coupon,day,{names}")));
    let text_of = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for row in &all {
        let mut fields = lines.next().unwrap().split(',');
        assert_eq!(fields.next(), Some("Winter coupon"));
        assert!(fields.next().unwrap().parse::<NaiveDate>().is_ok());
        for (name, field) in names.split(',').zip(fields) {
            // Times have a fraction only in some formats.
            let is_time = name.ends_with("_at") || name == "claimed_local";
            let is_same = text_of(&row[name]) == field.trim_start_matches('\'');
            assert!(is_time || is_same, "{row}: {field}");
        }
    }
    assert_eq!(lines.next(), None);

    let move_it =
        format!("UPDATE {{db}}.drops SET opens_at = '2026-05-04 12:00' WHERE id = {last}");
    world.sql(&move_it).await;
    let csv = ask(&api, &format!("{path}?drop_id={last}"), "text/csv").await;
    let text = csv.json.as_str().unwrap();
    assert_eq!(
        text.matches("Winter coupon,2026-05-04").count(),
        7,
        "{text}"
    );
}

#[tokio::test]
async fn invalid_and_unauthorized_requests_are_refused_and_csv_escapes_formulas() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, drop) = api.make(open(5)).await;
    let (_, foreign) = api.make(open(5)).await;
    world.issue(id, DropId(drop), 1, "=1+2|cmd").await;
    for accept in ["application/json", "text/csv"] {
        let table = "
            ops GET $id/issued?limit=0 ; accept: $accept => 400 invalid
            ops GET $id/issued?limit=10001 ; accept: $accept => 400 invalid
            ops GET $id/issued?after_slot=-1 ; accept: $accept => 400 invalid
            ops GET $id/issued?slot=1 ; accept: $accept => 400 invalid
            ops GET $id/issued?drop_id=$foreign ; accept: $accept => 404 not_found
            ops GET 4711/issued ; accept: $accept => 404 not_found
            - GET $id/issued ; accept: $accept => 401 unauthorized";
        let words: [(&str, &dyn Display); 3] =
            [("$id", &id), ("$foreign", &foreign), ("$accept", &accept)];
        api.play(&words, table).await;
    }
    let table = "
        ops GET $id/issued => 200 issued.0.user_id==1+2|cmd
        ops GET $id/issued ; accept: text/csv => 200 | $drop,1,'=1+2|cmd,CODE-1,";
    api.play(&[("$id", &id), ("$drop", &drop)], table).await;
}

#[tokio::test]
async fn csv_interrupted_by_mysql_breaks_the_connection() {
    let world = ServeWorld::new().await;
    let mysql = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&mysql, &world.name);
    let api = world
        .with("database-url", url)
        .with("database-timeout-ms", 20_000)
        .api()
        .await;
    let (id, drop) = api.make(open(30_000)).await;
    fill(&world, id, DropId(drop), 30_000).await;
    let url = format!("{}/v1/coupons/{id}/issued", api.base);
    let request = api
        .client
        .get(url)
        .bearer_auth(OPS_TOKEN)
        .header("accept", "text/csv");
    let mut answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.chunk().await.unwrap().is_some());
    mysql.set(firstcome_stack::ProxyFault::Cut).await.unwrap();
    let ended = loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(ended, "a partial answer looked complete");
}
