//! Requests as a table: one line each, with the answer that must come.
//!
//! `WHO METHOD PATH BODY ; HEADER: VALUE => STATUS CODE FIELD=VALUE | TEXT | !TEXT`
//!
//! - `WHO` is `ops`, `view`, `shop`, `-` for nobody, or a user.
//! - A path that does not begin with `/` is a coupon. A user `claims`, `looks` at or `returns` the
//!   claim on it. A shop `uses CODE REFERENCE`, `undoes` that or `reads CODE`.
//! - Body, headers, code, fields and texts may be missing. A field may be `current_drop.state`. The
//!   answer contains each `TEXT`, and no `!TEXT`.

use std::fmt::Display;

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{HttpAnswer, InProcessApi, OPS_TOKEN, REDEEM_TOKEN};

pub(crate) const VIEW_TOKEN: &str = "a-token-that-only-reads-of-38-characters";

impl InProcessApi {
    /// Sends the requests of a table, one after another, with these words replaced. Returns the
    /// last answer.
    pub(crate) async fn play(&self, words: &[(&str, &dyn Display)], table: &str) -> HttpAnswer {
        let table = words.iter().fold(table.to_owned(), |table, (word, value)| {
            table.replace(word, &value.to_string())
        });
        let mut last = None;
        for line in table.lines().map(str::trim).filter(|it| !it.is_empty()) {
            let (request, expected) = line.split_once(" => ").expect(line);
            let answer = self.send(request).await;
            answer.is_as(expected, line);
            last = Some(answer);
        }
        last.unwrap()
    }

    /// Sends the request of a line.
    pub(crate) async fn send(&self, request: &str) -> HttpAnswer {
        let mut parts = request.split(" ; ");
        let mut words = parts.next().unwrap_or_default().splitn(4, ' ');
        let [who, verb, place, rest] = std::array::from_fn(|_| words.next().unwrap_or_default());
        let (method, path, body) = target(verb, place, rest);
        let token = match who {
            "ops" => OPS_TOKEN,
            "view" => VIEW_TOKEN,
            "shop" => REDEEM_TOKEN,
            _ => "",
        };
        let token = format!("Bearer {token}");
        let mut headers = match who {
            "-" => Vec::new(),
            "ops" | "view" | "shop" => vec![("authorization", token.as_str())],
            user => vec![("x-user-id", user)],
        };
        headers.extend(parts.map(|header| header.split_once(": ").expect(header)));
        self.ask(method, &path, &headers, body).await
    }
}

/// Returns the method, the path and the body of a request.
fn target(verb: &str, place: &str, rest: &str) -> (Method, String, String) {
    let (coupon, query) = place.split_once('?').unwrap_or((place, ""));
    let own = |method, of: &str| {
        let path = format!("/v1/coupons/{coupon}/claims{of}?{query}");
        (method, path.trim_end_matches('?').to_owned(), String::new())
    };
    let code = format!("/v1/codes/{place}");
    match verb {
        "claims" => own(Method::POST, ""),
        "looks" => own(Method::GET, "/me"),
        "returns" => own(Method::DELETE, "/me"),
        "uses" => {
            let body = json!({ "reference": rest });
            (Method::PUT, format!("{code}/use"), body.to_string())
        }
        "undoes" => {
            let path = format!("{code}/use?reference={rest}");
            (Method::DELETE, path, String::new())
        }
        "reads" => (Method::GET, code, String::new()),
        method => {
            let path = match place.strip_prefix('/') {
                Some(_) => place.to_owned(),
                None => format!("/v1/coupons/{place}"),
            };
            (method.parse().unwrap(), path, rest.to_owned())
        }
    }
}

impl HttpAnswer {
    fn is_as(&self, expected: &str, line: &str) {
        let mut parts = expected.split(" | ");
        let mut words = parts.next().unwrap_or_default().split(' ');
        let status = words.next().unwrap_or_default();
        assert_eq!(self.status.to_string(), status, "{line}: {self:?}");
        for word in words {
            let Some((field, value)) = word.split_once('=') else {
                assert_eq!(self.code().1, word, "{line}: {self:?}");
                let may_retry = self.headers.contains_key("retry-after");
                assert!(may_retry || self.status != 503, "{line}: {self:?}");
                continue;
            };
            let pointer = format!("/{}", field.replace('.', "/"));
            let found = match self.json.pointer(&pointer) {
                Some(Value::String(text)) => text.clone(),
                other => other.map_or_else(String::new, Value::to_string),
            };
            assert_eq!(found, value, "{line}: {self:?}");
        }
        let text = self.json.to_string();
        for part in parts {
            let is_right = match part.strip_prefix('!') {
                Some(part) => !text.contains(part),
                None => text.contains(part),
            };
            assert!(is_right, "{line}: {self:?}");
        }
    }
}
