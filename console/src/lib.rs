//! The operations page: it shows whether the installation works and what to do if not, and changes
//! coupons. It is a client of the HTTP APIs of both services. The reconciler serves it at `/` to
//! operators who log in with a token (docs/decisions/0016-pages.md).
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

mod alerts;
mod assets;
mod client;
mod codes;
mod coupon;
mod dead_letters;
mod drop;
mod guard;
mod login;
mod overview;
mod page;
mod people;
mod requests;
mod runs;
mod session;
mod text;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::OpsToken;
use firstcome_shared::http::page::{Asset, secure};
use firstcome_shared::redis::Redis;
use firstcome_shared::subject::Subject;
use url::Url;

use self::assets::{ICON, SCRIPT, STYLE};
use self::client::Backends;
use self::page::ScreenState;

/// The dependencies of the page.
pub struct Console {
    /// The routes of the reconciler, called in this process.
    pub reconciler: Router,
    /// `API_URL` and a file of additional certificate authorities. Without them the page cannot
    /// change coupons.
    pub api: Option<(String, Option<PathBuf>)>,
    /// The tokens with which operators log in. Cookies are signed with keys derived from them.
    pub token: OpsToken,
    /// `PUBLIC_URL`, where browsers show the page.
    pub public_url: Option<String>,
    pub screens: Screens,
}

/// Which screens there are.
pub enum Screens {
    /// All of them. Redis holds the list of log-outs, so that they apply on every replica.
    All(Redis),
    /// Passes and alerts of a system that is not ours. Its Redis holds no log-outs.
    PassesAndAlerts,
}

/// Forbids other origins, inline code and framing, and allows forms only to this origin.
const CONTENT_SECURITY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors \
    'none'";

/// Maximum size of a form with an allow list, in bytes: 8 MB, and what browsers add by encoding
/// line ends.
const LIST_AT_MOST: usize = 12 * 1024 * 1024;

/// Creates the routes of the page.
///
/// # Errors
/// If `API_URL`, `PUBLIC_URL` or the file is invalid.
pub fn routes(console: Console) -> anyhow::Result<Router> {
    let public = console.public_url.as_deref();
    anyhow::ensure!(
        public.is_none_or(is_without_path),
        "PUBLIC_URL must have no path: the operations page needs a host name or a port of its own"
    );
    let (subject, redis) = match console.screens {
        Screens::All(redis) => (Subject::Drop, Some(redis)),
        Screens::PassesAndAlerts => (Subject::Campaign, None),
    };
    let page = ScreenState {
        services: Arc::new(Backends::new(console.reconciler, console.api)?),
        token: console.token,
        redis,
        subject,
        public_origin: console.public_url.as_deref().and_then(origin),
    };
    let mut changes = Router::new()
        .route("/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/runs/{id}/confirm", post(runs::confirm))
        .route("/pass", post(drop::pass));
    let mut for_operators = Router::new()
        .route("/alerts", get(alerts::list))
        .route("/alerts/{id}", get(alerts::one))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::read))
        // Viewers may use these two: revealing IDs changes nothing and is recorded, and logging
        // out ends only the operator's own session.
        .route("/runs/{id}/reveal", post(runs::reveal))
        .route("/logout", post(login::log_out));
    match subject {
        Subject::Campaign => {
            let first = get(async || Redirect::to("/runs"));
            for_operators = for_operators.route("/", first);
        }
        Subject::Drop => {
            changes = changes.merge(changes_of_coupons());
            for_operators = for_operators.merge(screens_of_coupons());
        }
    }
    let for_operators = for_operators
        .merge(changes.route_layer(from_fn(guard::may_change)))
        .route_layer(from_fn_with_state(page.clone(), guard::logged_in));
    let for_all = Router::new()
        .route("/login", get(login::form).post(login::log_in))
        .route("/assets/{file}", get(asset));
    let routes = for_operators
        .merge(for_all)
        .route_layer(from_fn_with_state(page.clone(), guard::own_origin))
        .route_layer(map_response(with_security_headers));
    Ok(routes.with_state(page))
}

fn is_without_path(address: &str) -> bool {
    Url::parse(address).is_ok_and(|url| url.path() == "/")
}

/// Returns the origin of an address (RFC 6454), as browsers send it: without a default port.
fn origin(address: &str) -> Option<String> {
    let origin = Url::parse(address).ok()?.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

fn changes_of_coupons() -> Router<ScreenState> {
    Router::new()
        .route("/dead-letters/{id}/correct", post(dead_letters::correct))
        .route("/dead-letters/{id}/discard", post(dead_letters::discard))
        .route("/coupons/{coupon}/change", post(coupon::change))
        .route(
            "/coupons/{coupon}/allow-list",
            post(coupon::change_list).layer(DefaultBodyLimit::max(LIST_AT_MOST)),
        )
        .route("/coupons/new", post(coupon::make))
        .route("/people/give-up", post(people::give_up))
        .route("/people/revoke", post(people::revoke))
        .route("/codes/undo", post(codes::undo))
}

fn screens_of_coupons() -> Router<ScreenState> {
    Router::new()
        .route("/", get(overview::read))
        .route("/coupons/{coupon}/drops/{drop}", get(drop::read))
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/{id}", get(dead_letters::read))
        .route("/coupons", get(coupon::list))
        .route("/coupons/new", get(coupon::form))
        .route("/coupons/{coupon}", get(coupon::read))
        .route("/coupons/{coupon}/winners.csv", get(coupon::winners))
        .route("/people", post(people::search))
        // It changes nothing and is recorded, so viewers may use it.
        .route("/dead-letters/{id}/reveal", post(dead_letters::reveal))
}

/// With `no-referrer`, browsers would send `Origin: null` with every form. Only assets may be cached.
#[allow(clippy::unused_async)] // a layer
async fn with_security_headers(mut response: Response) -> Response {
    secure(&mut response, CONTENT_SECURITY, "same-origin");
    let caching = response.headers_mut().entry(CACHE_CONTROL);
    caching.or_insert(HeaderValue::from_static("no-store"));
    response
}

#[allow(clippy::unused_async)] // a handler
async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    Asset::serve(&[&SCRIPT, &STYLE, &ICON], &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_refuses_a_public_address_with_a_path() {
        let token = "0123456789abcdef0123456789abcdef";
        for (public, is_fit) in [
            (None, true),
            (Some("https://ops.example.com"), true),
            (Some("https://ops.example.com:8443/"), true),
            (Some("https://example.com/ops"), false),
            (Some("https://example.com/ops/"), false),
        ] {
            let made = routes(Console {
                reconciler: Router::new(),
                api: None,
                token: OpsToken::new(&token.into(), None).unwrap(),
                public_url: public.map(str::to_owned),
                screens: Screens::PassesAndAlerts,
            });
            assert_eq!(made.is_ok(), is_fit, "{public:?}");
        }
    }
}
