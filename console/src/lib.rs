//! The operations page: it shows whether the installation works, and what to do if not. It is a
//! client of the HTTP APIs of both services. The reconciler serves it at `/` to operators who log
//! in with a token (docs/decisions/0016-operations-page.md).

mod alerts;
mod assets;
mod board;
mod changes;
mod chart;
mod client;
mod coupon;
mod coupons;
mod dead_letters;
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
mod times;

use std::path::PathBuf;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::page::{Asset, secure};
use firstcome_shared::http::seats::Seats;
use firstcome_shared::http::views::Overview;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::assets::{ICON, SCRIPT, STYLE};
use self::board::{Board, board};
use self::client::{Backends, HttpRefusal};
use self::html::{Top, answer, with_menu};
use self::live::Live;
pub use self::state::LogOuts;
use self::state::{OrDefault, Page, ScreenState};

/// The dependencies of the page.
pub struct Console {
    /// The routes of the reconciler, called in this process.
    pub reconciler: Router,
    /// `API_URL` and a file of additional certificate authorities. Without them the page cannot
    /// change coupons.
    pub api: Option<(String, Option<PathBuf>)>,
    /// The tokens that log in. Cookies are signed with keys derived from them.
    pub token: OpsToken,
    pub log_outs: Arc<dyn LogOuts>,
    /// Ends the live screens when cancelled.
    pub stop: CancellationToken,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewScreen<'a> {
    top: Top<'a>,
    board: &'a Board,
}

/// Maximum number of concurrent slow screens, each of operators and of viewers.
const SLOW_AT_ONCE: usize = 2;
const SLOW_OF_VIEWERS: usize = 1;

/// Forbids other origins, inline code and framing, and allows forms only to this origin.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Creates the routes of the page. Must be called within a Tokio runtime.
///
/// # Errors
/// If `API_URL` or the file is invalid.
pub fn routes(console: Console) -> anyhow::Result<Router> {
    let services = Arc::new(Backends::new(console.reconciler, console.api)?);
    let live = Arc::new(Live::new(&services, &console.token, console.stop));
    tokio::spawn(Arc::clone(&live).run());
    let page = ScreenState {
        services,
        token: console.token,
        log_outs: console.log_outs,
        slow: Seats::new(SLOW_AT_ONCE, SLOW_OF_VIEWERS),
        live,
    };
    let changes = Router::new()
        .route("/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/alerts/{id}/silence", post(alerts::silence))
        .route("/dead-letters/{id}/correct", post(dead_letters::correct))
        .route("/dead-letters/{id}/discard", post(dead_letters::discard))
        .route(
            "/coupons/{coupon}/drops/{drop}/change",
            post(changes::coupon),
        )
        .route("/coupons/new", post(new_coupon::make))
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
        .route("/alerts/{id}", get(alerts::one))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::read))
        .route("/coupons/{coupon}/drops/{drop}", get(drops::read))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::read))
        .route("/coupons", get(coupons::list))
        .route("/coupons/new", get(new_coupon::form))
        .route("/coupons/{coupon}", get(coupon::read))
        .route("/people", get(people::form).post(people::search))
        // These routes change nothing and are recorded, so viewers may use them.
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

#[derive(Deserialize, Default)]
#[serde(default)]
struct Paging {
    /// The page, counted from 1.
    page: usize,
}

async fn overview(
    page: Page,
    OrDefault(paging): OrDefault<Paging>,
) -> Result<Response, HttpRefusal> {
    let number = paging.page.clamp(1, 100_000);
    let path = format!("/v1/overview?page={number}");
    let board = board(&page.get::<Overview>(&path).await?);
    Ok(answer(
        StatusCode::OK,
        &OverviewScreen {
            top: Top::new(&board.tab(), Some(&page.session), "overview"),
            board: &board,
        },
    ))
}

#[allow(clippy::unused_async)] // a handler
async fn live_events(page: Page, headers: HeaderMap) -> Response {
    live::stream(page.state, page.session.allowed, headers)
}

#[allow(clippy::unused_async)] // a handler
async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    Asset::serve(&[&SCRIPT, &STYLE, &ICON], &file)
}

/// Redirects to the icon, for clients that ignore the link in the page.
#[allow(clippy::unused_async)] // a handler
async fn icon() -> Redirect {
    Redirect::to(&format!("/assets/{}", ICON.name))
}
