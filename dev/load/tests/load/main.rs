//! Tests of the load generator, of the load tool against small servers, and of the demo.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

mod crowd;
mod demo;
mod rush;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

/// Answers the first requests with `unavailable`, then gives out `quantity` slots.
struct FakeCoupons {
    quantity: usize,
    unavailable: usize,
    holders: HashMap<String, usize>,
}

/// Accepts a token instead of the header.
async fn claim(
    State(coupons): State<Arc<Mutex<FakeCoupons>>>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let mut coupons = coupons.lock().unwrap();
    let person = headers
        .get("x-user-id")
        .or(headers.get("authorization"))
        .map(|value| value.to_str().unwrap());
    let Some(person) = person.filter(|person| *person != "Bearer refused") else {
        return (
            StatusCode::UNAUTHORIZED,
            r#"{"status":401,"code":"unauthorized"}"#.into(),
        );
    };
    if coupons.unavailable > 0 {
        coupons.unavailable -= 1;
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":503,"code":"unavailable"}"#.into(),
        );
    }
    if let Some(slot) = coupons.holders.get(person) {
        return (
            StatusCode::OK,
            json!({"status": "already_claimed", "drop_id": 1, "slot": slot}).to_string(),
        );
    }
    let slot = coupons.holders.len() + 1;
    if slot > coupons.quantity {
        return (
            StatusCode::CONFLICT,
            r#"{"status":409,"code":"sold_out"}"#.into(),
        );
    }
    coupons.holders.insert(person.to_owned(), slot);
    (
        StatusCode::ACCEPTED,
        json!({"status": "accepted", "drop_id": 1, "slot": slot, "queued": true}).to_string(),
    )
}

async fn coupon(Path(id): Path<i64>) -> Result<Json<Value>, StatusCode> {
    let state = match id {
        7 => "open",
        8 => "closed",
        _ => return Err(StatusCode::NOT_FOUND),
    };
    Ok(Json(
        json!({"id": id, "current_drop": {"id": 1, "state": state}, "next_drop": null}),
    ))
}

async fn make(headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let good = headers
        .get("authorization")
        .is_some_and(|token| token == "Bearer the-token");
    (
        if good {
            StatusCode::CREATED
        } else {
            StatusCode::UNAUTHORIZED
        },
        Json(json!({"id": 7})),
    )
}

/// Starts a system that implements the contract. Coupon 7 is open, coupon 8 is closed.
async fn system(quantity: usize, unavailable: usize) -> String {
    let coupons = FakeCoupons {
        quantity,
        unavailable,
        holders: HashMap::new(),
    };
    let router = Router::new()
        .route("/v1/coupons", post(make))
        .route("/v1/coupons/{id}", get(coupon))
        .route("/v1/coupons/{id}/claims", post(claim))
        .with_state(Arc::new(Mutex::new(coupons)));
    listen(router).await
}

/// Serves on a free port and returns the address.
async fn listen(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
