//! Errors as `application/problem+json` (RFC 9457) with a stable `code`.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::StoreError;
use crate::mysql::DbError;
use crate::redis::RedisError;

/// Stable error codes, the same in both services. Each has one meaning and one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Code {
    /// The `detail` names the field, header or parameter.
    Invalid,
    /// The gateway or the token gives an id that is not valid for a user.
    BadUserId,
    /// No token, or an invalid one.
    Unauthorized,
    /// The token may only read.
    ReadOnly,
    /// The coupon is restricted to other users.
    NotAllowed,
    NotFound,
    MethodNotAllowed,
    SoldOut,
    Paused,
    NotOpen,
    Revoked,
    /// Another order uses the code.
    Used,
    /// The order's use of the code was undone.
    Undone,
    /// The code has the maximum number of references.
    TooManyReferences,
    /// More slots are already given out than the new quantity has.
    BelowGivenOut,
    PassRunning,
    /// The alert is over.
    NotFiring,
    /// The failed claim is resolved.
    AlreadyResolved,
    /// The user has no broken promise there.
    NothingBroken,
    Closed,
    /// The code can no longer be used.
    Expired,
    ChangedMeanwhile,
    TooLarge,
    /// The body is compressed.
    UnsupportedEncoding,
    IdempotencyKeyUsed,
    NotPossible,
    Internal,
    Unavailable,
}

impl Code {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Invalid | Self::BadUserId => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ReadOnly | Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::SoldOut
            | Self::Paused
            | Self::NotOpen
            | Self::Revoked
            | Self::Used
            | Self::Undone
            | Self::TooManyReferences
            | Self::BelowGivenOut
            | Self::PassRunning
            | Self::NotFiring
            | Self::AlreadyResolved
            | Self::NothingBroken => StatusCode::CONFLICT,
            Self::Closed | Self::Expired => StatusCode::GONE,
            Self::ChangedMeanwhile => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdempotencyKeyUsed | Self::NotPossible => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`; see `code`.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    #[schema(example = "Conflict")]
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 409)]
    status: u16,
    /// Stable error code.
    #[schema(example = "sold_out")]
    code: Code,
    /// Human-readable: what is wrong and what to do.
    #[schema(example = "all are given out")]
    detail: Cow<'static, str>,
    /// Further members, by code: `opens_at`, `run_id`, …
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        tracing::warn!(%error, "a request could not be processed");
        Self::unavailable(
            "MySQL does not answer. If you read something, nothing is wrong with it; if you \
            changed something, repeat it: only then is it certain whether that took effect",
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Db(error) => error.into(),
            StoreError::Redis(error) => error.into(),
        }
    }
}

impl From<RedisError> for Problem {
    fn from(error: RedisError) -> Self {
        tracing::warn!(%error, "a request could not be processed");
        Self::unavailable("Redis did not answer, and this needs it; try again")
    }
}

impl Problem {
    /// Creates a problem with a stable code and a human-readable detail.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = code.status();
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            more: Map::new(),
            retry_after_seconds: None,
        }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Creates a 503 with `Retry-After`: the same request may succeed later. The wait is one to
    /// three seconds, chosen at random, so that clients that got it at the same time do not return
    /// at the same time.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after_seconds = Some(rand::random_range(1..=3));
        Self {
            retry_after_seconds,
            ..Self::new(Code::Unavailable, detail)
        }
    }

    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// Creates a 500. Log the reason first, because the response does not give it.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "something went wrong here; the log has the reason",
        )
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub fn code(&self) -> &'static str {
        self.code.into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = self.retry_after_seconds;
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Returns the response for a route that does not exist.
#[allow(clippy::unused_async)] // a handler
pub async fn no_such_route() -> Problem {
    Problem::not_found("no such route; docs/API.md lists them")
}

/// Returns the response for a route that does not accept the method.
#[allow(clippy::unused_async)] // a handler
pub async fn no_such_method() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "this route has other methods; see docs/API.md",
    )
}
