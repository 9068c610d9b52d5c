//! Middleware that requires a session for everything but the log-in and the assets. A request that
//! may change something must also come from the page's own origin: browsers say so in headers that
//! no other site can set, and other sites' requests lack the `SameSite=Strict` cookie anyway. Routes
//! that do change something need the permission, too. Each check is in one place, so that no route
//! can omit it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::http::ops::Peer;

use super::client::query;
use super::page::{ScreenState, notice};
use super::session::LoginSession;

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

/// Middleware that requires a session. Handlers find their [`LoginSession`] in the extensions.
pub(super) async fn logged_in(
    State(page): State<ScreenState>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(mut session) = page.session(request.headers()).await else {
        return to_log_in(&request);
    };
    session.peer = request.extensions().get::<Peer>().copied();
    request.extensions_mut().insert(Arc::new(session));
    next.run(request).await
}

/// Middleware inside [`logged_in`] that rejects changes by viewers.
pub(super) async fn may_change(request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Arc<LoginSession>>();
    if session.is_none_or(|session| !session.may_change()) {
        let why = "You are logged in with the OPS_VIEW_TOKEN, which sees all and changes \
            nothing. Nothing was done.";
        return notice("View only", StatusCode::FORBIDDEN, why);
    }
    next.run(request).await
}

/// Redirects to the log-in, which then redirects to the requested page. After a form, whose content
/// is lost, the log-in says so.
fn to_log_in(request: &Request) -> Response {
    let path = request.uri().path_and_query().map(PathAndQuery::as_str);
    let to = if changes(request.method()) {
        query(&[("ended", "1")])
    } else {
        query(&[("next", own_path(path.unwrap_or_default()))])
    };
    Redirect::to(&format!("/login{to}")).into_response()
}

/// Returns the path to redirect to after log-in: `wanted` if it is a screen of this site, otherwise
/// the first page. `//host`, `/\host` and everything else that a browser may take for another site
/// is rejected.
pub(super) fn own_path(wanted: &str) -> &str {
    let is_own = wanted.starts_with('/')
        && !wanted.starts_with("//")
        && wanted
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !["/login", "/logout"]
            .iter()
            .any(|own| wanted.starts_with(own));
    if is_own { wanted } else { "/" }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::{HeaderName, HeaderValue};
    use firstcome_shared::http::ops::OpsToken;
    use tower::ServiceExt as _;

    use super::*;
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

    #[test]
    fn form_after_the_end_of_a_session_leads_to_a_log_in_that_says_so() {
        for (method, to) in [
            (Method::GET, "/login?next=%2Fcoupons%2F1%3Fpage%3D2"),
            (Method::POST, "/login?ended=1"),
        ] {
            let request = Request::builder().method(&method).uri("/coupons/1?page=2");
            let answer = to_log_in(&request.body(Body::empty()).unwrap());
            assert_eq!(answer.headers()["location"], to, "{method}");
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
        ] {
            assert_eq!(own_path(path), "/", "{path:?}");
        }
    }
}
