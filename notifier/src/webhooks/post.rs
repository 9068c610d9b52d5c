//! Sends a POST request with one deadline for everything, including the DNS lookup.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use firstcome_shared::http::origin::{HttpStep, Origin};
use firstcome_shared::tls::Store;
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::wording;

/// Maximum number of bytes read from the body of an error response.
const BODY: usize = 1_024;

/// Parts of an address with at least this many characters may be a secret.
const SECRET_AT_LEAST: usize = 8;

/// Maximum wait for the body of an error response.
const BODY_LIMIT: Duration = Duration::from_secs(1);

/// The target of a webhook.
#[derive(Clone)]
pub(super) struct PostTarget {
    /// Host and fingerprint, for logs and tables. The full address may contain a secret.
    pub(super) name: String,
    origin: Origin,
    path: SecretString,
    /// The header `Authorization`, if the address has a user and a password.
    login: Option<SecretString>,
}

impl fmt::Debug for PostTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The response.
#[derive(Debug)]
pub(super) struct PostAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// The beginning of the body of an error response, as one line.
    text: String,
}

impl PostAnswer {
    /// Returns `Err` with the reason unless the response reports success.
    pub(super) fn success(self) -> Result<(), String> {
        if self.status.is_success() {
            return Ok(());
        }
        let text = if self.text.is_empty() {
            String::new()
        } else {
            format!(": {}", self.text)
        };
        Err(format!("answered {}{text}", self.status))
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub(super) struct NoAnswer {
    pub(super) step: HttpStep,
    reason: String,
}

impl PostTarget {
    /// Creates a target from an address that [`super::args`] has checked, and a file of additional
    /// certificate authorities.
    pub(super) fn new(url: &Url, authorities: Option<PathBuf>) -> anyhow::Result<Self> {
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
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
        let (origin, path) = Origin::new(address.as_str(), Store::Webhook, shape, authorities)
            .map_err(anyhow::Error::msg)?;
        let fingerprint = format!("{:x}", Sha256::digest(url.as_str()));
        Ok(Self {
            name: format!("{origin}#{fingerprint:.8}"),
            origin,
            path: path.into(),
            login,
        })
    }

    /// Removes the path, which many servers repeat, from the text of an error response.
    fn without_secrets(&self, text: &str) -> String {
        let path = self.path.expose_secret();
        let parts = path
            .split(['/', '?', '&', '='])
            .filter(|part| part.len() >= SECRET_AT_LEAST);
        [path]
            .into_iter()
            .filter(|path| path.len() > 1)
            .chain(parts)
            .fold(text.to_owned(), |text, part| text.replace(part, "…"))
    }

    /// Posts JSON with these headers.
    ///
    /// # Errors
    /// [`NoAnswer`]. At [`HttpStep::Answer`], the receiver may have received the request.
    pub(super) async fn post(
        &self,
        limit: Duration,
        headers: &[(&'static str, &str)],
        body: String,
    ) -> Result<PostAnswer, NoAnswer> {
        let mut step = HttpStep::Connect;
        // A body that never ends must not hide the status.
        let bodys_end = Instant::now() + limit.mul_f32(0.9);
        let reason = match timeout(limit, self.exchange(headers, body, bodys_end, &mut step)).await
        {
            Ok(Ok(answer)) => {
                return Ok(PostAnswer {
                    text: self.without_secrets(&answer.text),
                    ..answer
                });
            }
            Ok(Err(error)) => wording::line(&format!("{error:#}"), wording::LONGEST),
            Err(_) => format!("no answer within {limit:?}"),
        };
        Err(NoAnswer { step, reason })
    }

    async fn exchange(
        &self,
        headers: &[(&'static str, &str)],
        body: String,
        bodys_end: Instant,
        step: &mut HttpStep,
    ) -> anyhow::Result<PostAnswer> {
        let mut request = Request::post(self.path.expose_secret())
            .header(CONTENT_TYPE, "application/json")
            .header(
                USER_AGENT,
                concat!("firstcome-reconciler/", env!("CARGO_PKG_VERSION")),
            );
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.expose_secret());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Bytes::from(body))
            .context("the request cannot be written")?;
        Ok(read(self.origin.send(request, step).await?, bodys_end).await)
    }
}

/// Reads the beginning of the body, which is only needed to explain an error.
async fn read(mut response: Response<Incoming>, bodys_end: Instant) -> PostAnswer {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut text = Vec::new();
    let reading = async {
        while !status.is_success() && text.len() < BODY {
            let Some(Ok(frame)) = response.body_mut().frame().await else {
                break;
            };
            text.extend(
                frame
                    .data_ref()
                    .into_iter()
                    .flatten()
                    .take(BODY - text.len()),
            );
        }
    };
    // The part received in this time is enough.
    let _ = timeout_at(bodys_end.min(Instant::now() + BODY_LIMIT), reading).await;
    let text = wording::line(&String::from_utf8_lossy(&text), wording::LONGEST);
    PostAnswer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        text,
    }
}
