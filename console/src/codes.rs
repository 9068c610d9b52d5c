//! The screen of a code that a user tells to support: its coupon, the orders that used it, and a
//! form that takes the code back from an order that no longer exists.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::Utc;
use firstcome_shared::mysql::codes::Code;
use firstcome_shared::mysql::uses::CodeView;
use serde_json::Value;

use super::client::{HttpRefusal, encoded, query};
use super::page::{Fields, Page, Screen, Top, answer, notice};
use super::text::Text;

#[derive(Template)]
#[template(path = "code.html")]
struct CodeScreen<'a> {
    top: Top<'a>,
    /// As it was typed.
    code: &'a str,
    found: &'a CodeView,
}

impl CodeScreen<'_> {
    fn state(&self) -> String {
        let details = &self.found.details;
        match (details.used_at, details.expires_at) {
            (Some(used_at), _) => format!("Used {}.", used_at.text()),
            (None, None) => "Not used. It does not expire.".to_owned(),
            (None, Some(end)) if end <= Utc::now() => {
                format!("Not used. It expired {}.", end.text())
            }
            (None, Some(end)) => format!("Not used. It can be used before {}.", end.text()),
        }
    }
}

/// Shows a code and what was just done, or says that its coupon was revoked or given back. Returns
/// `None` if no coupon has the code.
pub(super) async fn find(
    page: &Page,
    code: &str,
    done: &str,
) -> Result<Option<Response>, HttpRefusal> {
    let path = format!("/v1/codes/{}", encoded(code));
    match page.get_from_api::<CodeView>(&path).await {
        Ok(found) => {
            let top = Top {
                done,
                ..page.top("Code", "people")
            };
            let found = &found;
            let screen = CodeScreen { top, code, found };
            Ok(Some(answer(StatusCode::OK, &screen)))
        }
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Ok(None),
        Err(refusal) if refusal.status == StatusCode::CONFLICT => {
            Ok(code.parse().ok().as_ref().map(revoked))
        }
        Err(refusal) => Err(refusal),
    }
}

/// Says what is known of a code whose row is gone.
fn revoked(code: &Code) -> Response {
    let Code { drop, slot, .. } = code;
    let why = format!(
        "The coupon of this code was revoked or given back, so no order can use it. It was slot \
        {slot} of drop {drop}: search for {drop}, or for the user, to see more."
    );
    notice("This code has no coupon any more", StatusCode::OK, &why)
}

/// Asks the operator, then undoes the use of a code by an order.
pub(super) async fn undo(page: Page, form: Fields) -> Screen {
    let code = form.get("code");
    let reference = form.get("reference");
    let reason = form.get("reason");
    if reason.is_empty() {
        return Err(HttpRefusal::typed("Say why the use is undone."));
    }
    if !form.is_sure() {
        let what = format!(
            "Order {reference} loses the code {code}, and can never use it again. Another order \
            can. It can't be undone."
        );
        return Ok(page.confirm(&form, &what, "Undo the use"));
    }
    let query = query(&[("reference", reference), ("reason", reason)]);
    let path = format!("/v1/codes/{}/use{query}", encoded(code));
    page.api::<Value>(Method::DELETE, &path, &Value::Null, None)
        .await?;
    match find(&page, code, "Undone.").await {
        Ok(Some(shown)) => Ok(shown),
        _ => Ok(Redirect::to("/people?done=undone").into_response()),
    }
}
