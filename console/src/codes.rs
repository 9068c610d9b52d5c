//! The screen of a code that a user tells to support: its coupon, the orders that used it, and a
//! form that takes the code back from an order that no longer exists.

use askama::Template;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use firstcome_shared::mysql::uses::CodeView;
use serde_json::Value;

use super::client::{HttpRefusal, encoded, query};
use super::page::{ConsolePage, FormFields, Screen, Top, answer};
use super::requests::SentBody;
use super::text::Text;

#[derive(Template)]
#[template(path = "code.html")]
struct CodeScreen<'a> {
    top: Top<'a>,
    /// As it was typed.
    code: &'a str,
    found: &'a CodeView,
}

/// Shows a code and what was just done. Returns `None` if no coupon has the code.
pub(super) async fn find(
    page: &ConsolePage,
    code: &str,
    done: &str,
) -> Result<Option<Response>, HttpRefusal> {
    let path = format!("/v1/codes/{}", encoded(code));
    let found = match page.get_from_api::<CodeView>(&path).await {
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => return Ok(None),
        found => found?,
    };
    let top = Top {
        done,
        ..page.top("Code", "people")
    };
    let found = &found;
    let screen = CodeScreen { top, code, found };
    Ok(Some(answer(StatusCode::OK, &screen)))
}

/// Asks the operator, then undoes the use of a code by an order.
pub(super) async fn undo(page: ConsolePage, form: FormFields) -> Screen {
    let code = form.get("code");
    let reference = form.get("reference");
    if !form.is_sure() {
        let what = format!(
            "Order {reference} loses the code {code}, and can never use it again. Another order \
            can. It can't be undone."
        );
        return Ok(page.confirm(&form, &what, "Undo the use"));
    }
    let query = query(&[("reference", reference), ("reason", form.get("reason"))]);
    let path = format!("/v1/codes/{}/use{query}", encoded(code));
    page.api::<Value>(Method::DELETE, &path, SentBody::Nothing, None)
        .await?;
    let shown = find(&page, code, "Undone.").await?;
    Ok(shown.unwrap_or_else(|| Redirect::to("/").into_response()))
}
