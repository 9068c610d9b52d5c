//! Webhooks: events for programs and chats, in addition to the mails for operators
//! (docs/decisions/0017-webhooks.md).

mod args;
mod event;
mod sign;
mod test;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use firstcome_shared::http::origin::{HttpStep, Origin};
use firstcome_shared::tls::Store;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Request, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use url::Url;

use self::sign::{SigningSecret, signatures};
use crate::wording;

pub use args::WebhookArgs;
pub(crate) use event::{Event, Format, of_mail, of_more, of_problem, of_resolved, of_sealed};
pub use test::test_webhook;

/// A receiver of events.
#[derive(Clone)]
pub(crate) struct Webhook {
    /// Host and fingerprint, for logs and tables. The full address may contain a secret.
    pub(crate) name: String,
    pub(crate) format: Format,
    origin: Origin,
    path: SecretString,
    /// The header `Authorization`, if the address has a user and a password.
    login: Option<SecretString>,
    secrets: Arc<Vec<SigningSecret>>,
    /// Time limit of one request, including the DNS lookup.
    pub(crate) limit: Duration,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Why a receiver did not accept an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("answered {status}")]
    Refused {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
    /// At [`HttpStep::Answer`], the receiver may have the event.
    #[error("{step}: {reason}")]
    NoAnswer { step: HttpStep, reason: String },
}

impl Webhook {
    /// Creates a receiver from an address that [`args`] has checked.
    fn new(
        url: &Url,
        authorities: Option<PathBuf>,
        secrets: Arc<Vec<SigningSecret>>,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let decoded = |text: &str| {
            let text = percent_encoding::percent_decode_str(text);
            text.decode_utf8_lossy().into_owned()
        };
        let login = url.password().map(|password| {
            let login = format!("{}:{}", decoded(url.username()), decoded(password));
            format!("Basic {}", STANDARD.encode(login)).into()
        });
        let mut address = url.clone();
        let is_bare = address
            .set_username("")
            .and_then(|()| address.set_password(None));
        is_bare.ok().context("its user can't be read")?;
        let shape = "https://host/path";
        let origin = Origin::new(address.as_str(), Store::Webhook, shape, authorities);
        let (origin, path) = origin.map_err(anyhow::Error::msg)?;
        let fingerprint = format!("{:x}", Sha256::digest(url.as_str()));
        Ok(Self {
            name: format!("{origin}#{fingerprint:.8}"),
            format: Format::of(url),
            origin,
            path: path.into(),
            login,
            secrets,
            limit,
        })
    }

    /// Posts an event. Redirects are not followed.
    pub(crate) async fn post(
        &self,
        id: &str,
        body: &str,
        now: DateTime<Utc>,
    ) -> Result<(), PostError> {
        let mut step = HttpStep::Connect;
        let (status, retry_after) =
            match timeout(self.limit, self.exchange(id, body, now, &mut step)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    let reason = wording::line(&format!("{error:#}"), wording::LONGEST);
                    return Err(PostError::NoAnswer { step, reason });
                }
                Err(_) => {
                    let reason = format!("no answer within {:?}", self.limit);
                    return Err(PostError::NoAnswer { step, reason });
                }
            };
        if status.is_success() {
            Ok(())
        } else {
            Err(PostError::Refused {
                status,
                retry_after,
            })
        }
    }

    async fn exchange(
        &self,
        id: &str,
        body: &str,
        now: DateTime<Utc>,
        step: &mut HttpStep,
    ) -> anyhow::Result<(StatusCode, Option<Duration>)> {
        let agent = concat!("firstcome-reconciler/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::post(self.path.expose_secret())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, agent);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.expose_secret());
        }
        if self.format == Format::Signed {
            // Sign the time of this attempt, because receivers reject old events as replays.
            let timestamp = now.timestamp();
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp)
                .header(
                    "webhook-signature",
                    signatures(&self.secrets, id, timestamp, body),
                );
        }
        let request = request.body(Bytes::from(body.to_owned()));
        let request = request.context("the request cannot be written")?;
        let answer = self.origin.send(request, step).await?;
        let asked = answer.headers().get(RETRY_AFTER);
        let asked = asked.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok((answer.status(), asked.map(Duration::from_secs)))
    }
}

impl PostError {
    /// Whether another attempt cannot help: the receiver is gone, or a chat refuses the text.
    pub(crate) fn is_final(&self, format: Format) -> bool {
        let Self::Refused { status, .. } = self else {
            return false;
        };
        let is_busy = *status == StatusCode::TOO_MANY_REQUESTS;
        *status == StatusCode::GONE
            || format != Format::Signed && status.is_client_error() && !is_busy
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NoAnswer { .. } => None,
        }
    }
}
