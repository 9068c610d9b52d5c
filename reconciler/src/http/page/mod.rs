//! The operations page: is everything all right, and what to do if not. Served at `/`, to people
//! who log in with a token. Why it is made so: docs/decisions/0016-operations-page.md.

mod alerts;
mod api;
mod assets;
mod board;
mod changes;
mod chart;
mod coupon;
mod coupons;
mod dead_letters;
mod deliveries;
mod drops;
mod guard;
mod html;
mod live;
mod login;
mod new_coupon;
mod pace;
mod people;
mod runs;
mod session;
mod state;
mod time_line;
mod times;

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::page::{Asset, secure};
use firstcome_shared::http::seats::Seats;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use self::api::CouponApi;
use self::assets::{ICON, SCRIPT, STYLE};
use self::board::Board;
use self::html::{Top, answer, with_menu};
use self::live::Live;
use self::session::Session;
use self::state::ScreenState;
use super::state::RouteState;

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewScreen<'a> {
    top: Top<'a>,
    board: &'a Board,
}

/// Slow screens that are made at a time, of operators and of viewers.
const SLOW_AT_ONCE: usize = 2;
const SLOW_OF_VIEWERS: usize = 1;

/// Nothing from elsewhere, nothing inline, in nobody's frame, and forms go nowhere else.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The routes of the page. Its live part ends with `stop`.
pub(super) fn routes(
    app: RouteState,
    token: OpsToken,
    api: Option<Arc<CouponApi>>,
    stop: CancellationToken,
) -> anyhow::Result<Router> {
    let live = Arc::new(Live::new(app.stores.clone(), stop));
    tokio::spawn(Arc::clone(&live).run());
    let slow = Seats::new(SLOW_AT_ONCE, SLOW_OF_VIEWERS);
    let page = ScreenState {
        app,
        token,
        api,
        slow,
        live,
    };
    let changes = Router::new()
        .route("/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/alerts/{id}/silence", post(alerts::silence))
        .route("/dead-letters/discard", post(dead_letters::discard_all))
        .route("/dead-letters/{id}/correct", post(dead_letters::correct))
        .route("/dead-letters/{id}/discard", post(dead_letters::discard))
        .route(
            "/coupons/{coupon}/drops/{drop}/change",
            post(changes::coupon),
        )
        .route("/coupons/new", post(new_coupon::make))
        .route("/deliveries/{kind}/{id}/again", post(deliveries::again))
        .route("/people/erase", post(changes::erase))
        .route("/people/give-up", post(changes::give_up))
        .route("/people/revoke", post(changes::revoke))
        .route("/pass", post(drops::pass_over_all))
        .route("/coupons/{coupon}/drops/{drop}/pass", post(drops::pass))
        .route_layer(from_fn(guard::may_change));
    let for_operators = Router::new()
        .route("/", get(overview))
        .route("/live", get(live_events))
        .route("/alerts", get(alerts::list))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::read))
        .route("/coupons/{coupon}/drops/{drop}", get(drops::read))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::read))
        .route("/coupons", get(coupons::list))
        .route("/coupons/new", get(new_coupon::form))
        .route("/coupons/{coupon}", get(coupon::read))
        .route("/days", get(pace::by_day))
        .route("/deliveries", get(deliveries::list))
        .route("/people", get(people::form).post(people::search))
        // They change nothing, and are recorded: who views sees all.
        .route("/runs/{id}/reveal", post(runs::reveal))
        .route("/dead-letters/{id}/reveal", post(dead_letters::reveal))
        .route("/logout", post(login::log_out))
        .merge(changes)
        .route_layer(from_fn(with_menu))
        .route_layer(from_fn_with_state(page.clone(), guard::logged_in));
    let for_all = Router::new()
        .route("/login", get(login::form).post(login::log_in))
        .route("/assets/{file}", get(asset))
        .route("/favicon.ico", get(icon));
    let routes = for_operators.merge(for_all);
    let routes = routes
        .route_layer(from_fn(guard::own_origin))
        .route_layer(map_response(with_security_headers));
    Ok(routes.with_state(page))
}

/// With `no-referrer`, browsers would send `Origin: null` with every form.
#[allow(clippy::unused_async)] // a layer
async fn with_security_headers(mut response: Response) -> Response {
    secure(&mut response, CONTENT_SECURITY, "same-origin");
    response
}

#[derive(Deserialize)]
struct Paging {
    /// From 1 on.
    page: usize,
}

async fn overview(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<Paging>, QueryRejection>,
) -> Response {
    let number = query.map_or(0, |Query(paging)| paging.page.saturating_sub(1));
    let board = page.live.board(number).await;
    answer(
        StatusCode::OK,
        &OverviewScreen {
            top: Top::new(&board.tab(), "overview", Some(&session)),
            board: &board,
        },
    )
}

#[allow(clippy::unused_async)] // a handler
async fn live_events(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    headers: HeaderMap,
) -> Response {
    live::stream(page, session.allowed, headers)
}

#[allow(clippy::unused_async)] // a handler
async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    Asset::serve(&[&SCRIPT, &STYLE, &ICON], &file)
}

/// Asked for by whatever does not read the page's own link to it.
#[allow(clippy::unused_async)] // a handler
async fn icon() -> Redirect {
    Redirect::to(&format!("/assets/{}", ICON.name))
}
