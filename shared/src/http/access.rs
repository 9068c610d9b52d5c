//! The access log: one line per request, without user ids, if the logs include
//! `firstcome::access=debug`.

use std::net::SocketAddr;
use std::time::Instant;

use axum::http::{Method, Request, StatusCode};

const TARGET: &str = "firstcome::access";

pub(super) struct Access {
    method: Method,
    path: String,
    peer: SocketAddr,
    begun: Instant,
}

/// Starts a log entry. Returns `None` if the access log is off.
pub(super) fn begin<B>(request: &Request<B>, peer: SocketAddr) -> Option<Access> {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG).then(|| {
        let method = request.method().clone();
        let path = without_people(request.uri().path());
        Access {
            method,
            path,
            peer,
            begun: Instant::now(),
        }
    })
}

impl Access {
    pub(super) fn end(self, status: StatusCode) {
        let Self {
            method,
            path,
            peer,
            begun,
        } = self;
        let took = begun.elapsed();
        tracing::debug!(target: TARGET, %method, path, status = status.as_u16(), ?took, %peer, "request");
    }
}

/// Path segments of known routes, which are safe to log.
const PARTS: [&str; 36] = [
    "healthz",
    "readyz",
    "metrics",
    "openapi.json",
    "v1",
    "coupons",
    "claims",
    "me",
    "issued",
    "people",
    "revoke",
    "allow-list",
    "add",
    "remove",
    "reconcile",
    "runs",
    "alerts",
    "acknowledge",
    "drops",
    "c",
    "login",
    "logout",
    "live",
    "assets",
    "dead-letters",
    "deliveries",
    "days",
    "pass",
    "change",
    "new",
    "again",
    "reveal",
    "discard",
    "correct",
    "winners.csv",
    "erase",
];

/// Removes everything from a path that could identify a user: only known segments and numbers
/// remain. Any other segment may be a user id, and the segment after `people` always is. The query
/// is never logged.
fn without_people(path: &str) -> String {
    let mut is_person = false;
    let shown = path.split('/').map(|part| {
        let is_known = PARTS.contains(&part) || part.bytes().all(|byte| byte.is_ascii_digit());
        if std::mem::replace(&mut is_person, part == "people") || !is_known {
            "…"
        } else {
            part
        }
    });
    shown.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_log_contains_no_user_ids() {
        assert_eq!(
            without_people("/v1/coupons/7/claims"),
            "/v1/coupons/7/claims"
        );
        assert_eq!(
            without_people("/v1/coupons/7/people/u-37/revoke"),
            "/v1/coupons/7/people/…/revoke"
        );
        assert_eq!(
            without_people("/v1/coupons/7/allow-list/people/people"),
            "/v1/coupons/7/allow-list/people/…"
        );
        assert_eq!(without_people("/people"), "/people");

        for (path, shown) in [
            ("/v1/coupons/5/claims/u-37", "/v1/coupons/5/claims/…"),
            ("/nope/u-37", "/…/…"),
            ("/v1/coupons/u-37", "/v1/coupons/…"),
            ("/runs/trace-leak-77%40x.test", "/runs/…"),
            ("/v1/coupons/7/claims", "/v1/coupons/7/claims"),
        ] {
            assert_eq!(without_people(path), shown);
        }
    }
}
