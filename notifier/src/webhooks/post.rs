//! One POST over a connection of its own: no pool, no redirect, no proxy, and one deadline for all
//! of it, from the look-up of the name on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::wording;

/// Most that is read of an answer's head, and of the body of a refusal, in bytes.
const HEAD: usize = 16 * 1024;
const BODY: usize = 1_024;

/// A part of an address that is as long may be its secret, in characters.
const SECRET_AT_LEAST: usize = 8;

/// Longest that is waited for that body.
const BODY_LIMIT: Duration = Duration::from_secs(1);

/// Where something is posted.
#[derive(Clone)]
pub(super) struct PostTarget {
    /// Host and fingerprint: fit for logs and tables, as the address may have a secret in it.
    pub(super) name: String,
    host: String,
    port: u16,
    /// As the header `Host` has it.
    authority: String,
    path: SecretString,
    /// The header `Authorization`, where the address has a user and a password.
    login: Option<SecretString>,
    tls: Option<TlsConnector>,
}

impl fmt::Debug for PostTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct PostAnswer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// The beginning of a refusal's body, one line.
    text: String,
}

impl PostAnswer {
    /// `Err` says why it is none.
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

/// How far a POST came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PostStep {
    Connect,
    Tls,
    /// The request is sent; the head of the answer is awaited.
    Answer,
}

impl fmt::Display for PostStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "TLS",
            Self::Answer => "request",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}")]
pub(super) struct NoAnswer {
    pub(super) step: PostStep,
    reason: String,
}

impl PostTarget {
    /// Takes an address that [`super::args`] has checked.
    pub(super) fn new(url: &Url, tls: &TlsConnector) -> anyhow::Result<Self> {
        let host = url.host_str().context("it has no host")?.to_owned();
        let port = url.port_or_known_default().context("it has no port")?;
        let authority = url
            .port()
            .map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let path = url.query().map_or_else(
            || url.path().to_owned(),
            |query| format!("{}?{query}", url.path()),
        );
        let decoded = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8_lossy()
                .into_owned()
        };
        let login = url.password().map(|password| {
            let login = format!("{}:{}", decoded(url.username()), decoded(password));
            format!("Basic {}", STANDARD.encode(login)).into()
        });
        let fingerprint = format!("{:x}", Sha256::digest(url.as_str()));
        Ok(Self {
            name: format!("{authority}#{fingerprint:.8}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority,
            path: path.into(),
            login,
            tls: (url.scheme() == "https").then(|| tls.clone()),
        })
    }

    /// The text of a refusal, in which many servers repeat the path.
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
    /// [`NoAnswer`]. After one at [`PostStep::Answer`] the other side may have it all the same.
    pub(super) async fn post(
        &self,
        limit: Duration,
        headers: &[(&'static str, &str)],
        body: String,
    ) -> Result<PostAnswer, NoAnswer> {
        let mut step = PostStep::Connect;
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
        step: &mut PostStep,
    ) -> anyhow::Result<PostAnswer> {
        let mut request = Request::post(self.path.expose_secret())
            .header(HOST, &self.authority)
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
            .body(Full::new(Bytes::from(body)))
            .context("the request cannot be written")?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let Some(tls) = &self.tls else {
            *step = PostStep::Answer;
            return talk(TokioIo::new(stream), request, bodys_end).await;
        };
        *step = PostStep::Tls;
        let stream = tls
            .connect(ServerName::try_from(self.host.clone())?, stream)
            .await?;
        *step = PostStep::Answer;
        talk(TokioIo::new(stream), request, bodys_end).await
    }
}

async fn talk(
    io: impl Read + Write + Unpin + Send,
    request: Request<Full<Bytes>>,
    bodys_end: Instant,
) -> anyhow::Result<PostAnswer> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD)
        .handshake(io)
        .await?;
    let mut connection = std::pin::pin!(connection);
    let mut answer = std::pin::pin!(async {
        anyhow::Ok(read(sender.send_request(request).await?, bodys_end).await)
    });
    tokio::select! {
        answer = &mut answer => answer,
        // What it has read by its end, the answer has.
        _ = &mut connection => answer.await,
    }
}

/// The body is of interest only where it says why something was refused, and only its beginning.
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
    // What came of it by then is enough.
    let _ = timeout_at(bodys_end.min(Instant::now() + BODY_LIMIT), reading).await;
    let text = wording::line(&String::from_utf8_lossy(&text), wording::LONGEST);
    PostAnswer {
        status,
        retry_after: retry_after.map(Duration::from_secs),
        text,
    }
}

/// TLS that trusts the usual authorities and those in `authorities`, PEM, which may be empty.
///
/// # Errors
/// With what is wrong.
pub(super) fn tls(authorities: &[u8]) -> anyhow::Result<TlsConnector> {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate = certificate.context("WEBHOOK_CA_FILE can't be read as PEM")?;
        roots
            .add(certificate)
            .context("WEBHOOK_CA_FILE has a certificate that can't be used")?;
    }
    if !authorities.is_empty() && roots.len() == webpki_roots::TLS_SERVER_ROOTS.len() {
        bail!("WEBHOOK_CA_FILE holds no certificate in PEM");
    }
    // The provider is named, as a process may have no default one.
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?;
    Ok(TlsConnector::from(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    )))
}
