//! Middleware that requires a session for everything but the log-in and the assets. A request that
//! may change something must also come from the page's own origin and, except the log-in, contain
//! the session's CSRF token. Routes that do change something need the permission, too. Each check
//! is in one place, so that no route can omit it.

use std::sync::Arc;

use axum::Form;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest as _, Request, State};
use axum::http::header::{HOST, ORIGIN, REFERER};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::http::ops::Peer;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;

use super::client::query;
use super::page::{ScreenState, notice};
use super::session::Session;

/// Maximum size of a form, in bytes.
const FORM_AT_MOST: usize = 16 * 1024;

/// Maximum size of a form with an allow list, in bytes: 8 MB, and what browsers add by encoding
/// line ends.
const LIST_AT_MOST: usize = 12 * 1024 * 1024;

/// Maximum length of a path to redirect to after log-in, in bytes. The path of a new coupon's
/// preview contains the whole form.
const NEXT_AT_MOST: usize = 3_000;

/// Whether a request with this method may change something.
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Middleware that rejects requests that may change something unless they come from a page of this
/// origin.
pub(super) async fn own_origin(
    State(page): State<ScreenState>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if changes(request.method()) && !is_own(headers, page.public_origin.as_deref()) {
        let why = format!(
            "This request came from another site, so nothing was done. If it came from this \
            page, through a proxy: let the proxy pass on Host (it sent {:?}), or set PUBLIC_URL \
            to the address that the browser shows ({:?}).",
            text(headers, HOST.as_str()).unwrap_or_default(),
            text(headers, ORIGIN.as_str()).unwrap_or_default()
        );
        return notice("Refused", StatusCode::FORBIDDEN, &why);
    }
    next.run(request).await
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the request comes from the page's own origin, according to headers that scripts cannot
/// set. Browsers send `Sec-Fetch-Site` only over https or to localhost. Without it, `Origin`
/// must be that of `PUBLIC_URL`, or have the host of the request's `Host` header.
fn is_own(headers: &HeaderMap, public: Option<&str>) -> bool {
    let site = text(headers, "sec-fetch-site");
    match (site, text(headers, ORIGIN.as_str())) {
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) if Some(origin) == public => true,
        (None, Some(origin)) => origin
            .split_once("://")
            .is_some_and(|(_, host)| Some(host) == text(headers, HOST.as_str())),
        (None, None) => false,
    }
}

/// Middleware that requires a session. Handlers find their [`Session`] in the extensions. A
/// request that may change something must also contain the session's CSRF token.
pub(super) async fn logged_in(
    State(page): State<ScreenState>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(mut session) = page.session(request.headers()).await else {
        return to_log_in(&request, page.public_origin.as_deref());
    };
    session.caller.peer = request.extensions().get::<Peer>().copied();
    if changes(request.method()) {
        request = match with_token(request, &session).await {
            Ok(request) => request,
            Err(refused) => return refused,
        };
    }
    request.extensions_mut().insert(Arc::new(session));
    next.run(request).await
}

/// Middleware inside [`logged_in`] that rejects changes by viewers.
pub(super) async fn may_change(request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Arc<Session>>();
    if session.is_none_or(|session| !session.may_change()) {
        let why = "You are logged in with the OPS_VIEW_TOKEN, which sees all and changes \
            nothing. Nothing was done.";
        return notice("View only", StatusCode::FORBIDDEN, why);
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Token {
    csrf: String,
}

async fn with_token(request: Request, session: &Session) -> Result<Request, Response> {
    let (parts, body) = request.into_parts();
    let is_list = parts.uri.path().ends_with("/allow-list");
    let most = if is_list { LIST_AT_MOST } else { FORM_AT_MOST };
    let Ok(bytes) = to_bytes(body, most).await else {
        return Err(notice(
            "Too large",
            StatusCode::PAYLOAD_TOO_LARGE,
            "This form is too large. Nothing was done.",
        ));
    };
    let probe = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
    let token = Form::<Token>::from_request(probe, &()).await;
    if token.is_ok_and(|Form(token)| token.csrf.as_bytes().ct_eq(session.csrf.as_bytes()).into()) {
        return Ok(Request::from_parts(parts, Body::from(bytes)));
    }
    let why = "This form is of an earlier log-in. Nothing was done: go back, reload the page, \
        and try again.";
    Err(notice("Out of date", StatusCode::FORBIDDEN, why))
}

/// Redirects to the log-in, which then redirects to the requested page. After a form, whose content
/// is lost, the log-in says so, and then redirects to the page of the form.
fn to_log_in(request: &Request, public: Option<&str>) -> Response {
    let is_form = changes(request.method());
    let wanted = if is_form {
        referring_path(request.headers(), public)
    } else {
        request.uri().path_and_query().map(PathAndQuery::as_str)
    };
    let wanted = own_path(wanted.unwrap_or("/"));
    let next = Some(wanted).filter(|path| *path != "/").unwrap_or_default();
    let ended = if is_form { "1" } else { "" };
    let to = format!("/login{}", query(&[("next", next), ("ended", ended)]));
    Redirect::to(&to).into_response()
}

/// Returns the path of the page of this origin that has sent the request.
fn referring_path<'a>(headers: &'a HeaderMap, public: Option<&str>) -> Option<&'a str> {
    let referer = text(headers, REFERER.as_str())?;
    let (scheme, rest) = referer.split_once("://")?;
    let at = rest.find('/')?;
    let (host, path) = rest.split_at(at);
    let is_own = Some(host) == text(headers, HOST.as_str())
        || public.and_then(|it| it.split_once("://")) == Some((scheme, host));
    is_own.then_some(path)
}

/// Returns the path to redirect to after log-in: `wanted` if it is a screen of this site, otherwise
/// the first page. `//host`, `/\host` and everything else that a browser may take for another site
/// is rejected.
pub(super) fn own_path(wanted: &str) -> &str {
    let is_own = wanted.starts_with('/')
        && !wanted.starts_with("//")
        && wanted.len() <= NEXT_AT_MOST
        && wanted
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !["/login", "/logout", "/live"]
            .iter()
            .any(|own| wanted.starts_with(own));
    if is_own { wanted } else { "/" }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::extract::DefaultBodyLimit;
    use axum::http::header::COOKIE;
    use axum::http::{HeaderName, HeaderValue};
    use chrono::Utc;
    use firstcome_shared::http::ops::OpsToken;
    use tower::ServiceExt as _;

    use super::*;
    use crate::session::begin;
    use crate::{Console, Screens, routes};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn change_requires_the_pages_own_origin() {
        let host = ("host", "ops.example.com:8081");
        let own = ("origin", "http://ops.example.com:8081");
        let foreign = ("origin", "https://evil.example");
        let public = ("origin", "https://public.example.com");
        let inner = ("host", "reconciler:8081");
        for (pairs, is_ours) in [
            (vec![host, own], true),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            // A proxy rewrites Host, and PUBLIC_URL says what browsers show.
            (vec![inner, public], true),
            (vec![inner, ("origin", "http://public.example.com")], false),
            (vec![inner, public, ("sec-fetch-site", "cross-site")], false),
            // A proxy that terminates TLS may send a different Host.
            (
                vec![
                    ("host", "10.0.0.7"),
                    ("origin", "https://ops.example.com"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
            (vec![host], false),
            (vec![host, foreign], false),
            (vec![host, ("origin", "null")], false),
            (vec![host, ("origin", "http://ops.example.com")], false),
            (
                vec![host, ("origin", "http://ops.example.com:8081.evil.example")],
                false,
            ),
            (vec![host, own, ("sec-fetch-site", "same-site")], false),
            (vec![host, own, ("sec-fetch-site", "cross-site")], false),
            (vec![host, own, ("sec-fetch-site", "none")], false),
        ] {
            let is_accepted = is_own(&headers(&pairs), Some("https://public.example.com"));
            assert_eq!(is_accepted, is_ours, "{pairs:?}");
        }
    }

    /// A proxy sends its own name for the server as `Host`, or adds the port that browsers omit.
    #[tokio::test]
    async fn log_in_through_a_proxy_that_rewrites_host_needs_public_url() {
        let token = "0123456789abcdef0123456789abcdef";
        let answer = async |public: Option<&str>, host: &str| {
            let page = routes(Console {
                reconciler: Router::new(),
                api: None,
                token: OpsToken::new(&token.into(), None).unwrap(),
                public_url: public.map(str::to_owned),
                screens: Screens::PassesAndAlerts,
            });
            let request = Request::post("/login")
                .header(HOST, host)
                .header(ORIGIN, "https://ops.example.test")
                .header("x-forwarded-host", "ops.example.test")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from(format!("name=Kim&token={token}&next=/")));
            let response = page.unwrap().oneshot(request.unwrap()).await.unwrap();
            let status = response.status().as_u16();
            let body = to_bytes(response.into_body(), 100_000).await.unwrap();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        for host in ["reconciler:8081", "ops.example.test:443"] {
            for public in ["https://ops.example.test", "https://ops.example.test:443/"] {
                let (status, page) = answer(Some(public), host).await;
                assert_eq!(status, 303, "{public} {host}: {page}");
            }
            for public in [None, Some("http://ops.example.test")] {
                let (status, page) = answer(public, host).await;
                assert_eq!(status, 403, "{public:?} {host}");
                for part in [host, "PUBLIC_URL", "https://ops.example.test"] {
                    assert!(page.contains(part), "{part} is not in {page}");
                }
            }
        }
    }

    #[tokio::test]
    async fn allow_list_has_a_higher_limit_than_other_forms() {
        let tokens = OpsToken::new(&"0123456789abcdef0123456789abcdef".into(), None).unwrap();
        let cookie = begin(&tokens.signers().next().unwrap(), "Kim", Utc::now());
        let cookie = format!("firstcome-ops={cookie}");
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.parse().unwrap());
        let session = Session::from_headers(&headers, &tokens, Utc::now()).unwrap();
        for (path, bytes, refused) in [
            ("/coupons/1/allow-list", LIST_AT_MOST, None),
            ("/coupons/1/allow-list", LIST_AT_MOST + 1, Some(413)),
            ("/coupons/1/change", FORM_AT_MOST, None),
            ("/coupons/1/change", FORM_AT_MOST + 1, Some(413)),
        ] {
            let form = format!("csrf={}&people=", session.csrf);
            let people = "a".repeat(bytes - form.len());
            let mut request = Request::post(path)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Body::from(form + &people))
                .unwrap();
            // As the routes do.
            DefaultBodyLimit::disable().apply(&mut request);
            let answer = with_token(request, &session).await;
            let status = answer.err().map(|refused| refused.status().as_u16());
            assert_eq!(status, refused, "{path} {bytes}");
        }
    }

    #[test]
    fn form_after_the_end_of_a_session_leads_back_to_its_page_and_says_so() {
        let public = Some("https://ops.example.com");
        let form = Method::POST;
        for (method, referer, to) in [
            (&Method::GET, "", "/login?next=%2Fcoupons%2F1%2Fchange"),
            (&form, "", "/login?ended=1"),
            (
                &form,
                "http://reconciler:8081/coupons/1",
                "/login?next=%2Fcoupons%2F1&ended=1",
            ),
            (
                &form,
                "https://ops.example.com/runs?before=1",
                "/login?next=%2Fruns%3Fbefore%3D1&ended=1",
            ),
            (&form, "http://ops.example.com/runs", "/login?ended=1"),
            (&form, "https://evil.example/runs", "/login?ended=1"),
        ] {
            let request = Request::builder()
                .method(method)
                .uri("/coupons/1/change")
                .header(HOST, "reconciler:8081")
                .header(REFERER, referer)
                .body(Body::empty())
                .unwrap();
            let answer = to_log_in(&request, public);
            assert_eq!(answer.headers()["location"], to, "{method} {referer}");
        }
    }

    #[test]
    fn log_in_redirects_only_to_a_screen_of_this_site() {
        for path in [
            "/",
            "/runs?before=1",
            "/alerts?status=firing#alert-7",
            "/runs/0193a1f2-7c00",
        ] {
            assert_eq!(own_path(path), path);
        }
        let long = format!("/{}", "a".repeat(NEXT_AT_MOST));
        for path in [
            "",
            "runs",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "/a\r\nb",
            "/ä",
            "/login?next=/",
            "/logout",
            "/live",
            &long,
        ] {
            assert_eq!(own_path(path), "/", "{path:?}");
        }
    }
}
