//! Webhooks: events for programs and chats, in addition to the mails for operators
//! (docs/decisions/0017-webhooks.md). Signed according to the Standard Webhooks specification.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use firstcome_shared::config::{secret, ssl_cert_file};
use firstcome_shared::http::client::HttpClient;
use firstcome_shared::report::wording;
use firstcome_shared::tls::TlsServer;
use hmac::{Hmac, Mac as _};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use url::Url;

use super::failure::Failure;
use crate::events::Format;

/// Permitted length of a signing key, in bytes.
const KEY: std::ops::RangeInclusive<usize> = 24..=64;

/// How an address is written.
const SHAPE: &str = "give https://host/path, several separated by commas";

/// How a secret is made.
const MAKE: &str = "make one with `echo whsec_$(openssl rand -base64 32)`";

/// The targets of events.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Addresses that get every event, several separated by commas, signed as standardwebhooks.com
    /// specifies: `https://…`, or `http://…` within a private network. Addresses of Slack, Teams,
    /// Discord and Google Chat get a text instead. SSL_CERT_FILE names further certificate
    /// authorities
    #[arg(long, env = "WEBHOOK_URLS", hide_env_values = true, value_parser = secret(|text| urls(text).map(drop)))]
    pub webhook_urls: Option<SecretString>,
    /// Secret that signs events: `whsec_` and 24 to 64 random bytes in base64; two separated by a
    /// comma while you replace one, and both sign
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_parser = secret(|text| keys(text).map(drop)))]
    pub webhook_secret: Option<SecretString>,
    /// Maximum time for one event.
    #[arg(skip = 15_000_u64)]
    pub webhook_timeout_ms: u64,
    /// File of additional certificate authorities.
    #[arg(skip = ssl_cert_file())]
    pub authorities: Option<PathBuf>,
}

impl WebhookArgs {
    /// Checks constraints that clap can't express, and reads the file of certificate authorities.
    pub(crate) fn webhooks(&self) -> anyhow::Result<Vec<Webhook>> {
        // An empty variable counts as unset, because docker-compose passes unset variables as
        // empty.
        let [given_urls, secret] = [&self.webhook_urls, &self.webhook_secret]
            .map(|setting| setting.as_ref().map_or("", ExposeSecret::expose_secret));
        let urls = urls(given_urls).map_err(anyhow::Error::msg)?;
        let keys = keys(secret).map_err(anyhow::Error::msg)?;
        if keys.is_empty()
            && urls
                .iter()
                .any(|url| Format::for_url(url) == Format::Signed)
        {
            bail!(
                "WEBHOOK_URLS is set but WEBHOOK_SECRET is not: {MAKE}, and give it to the \
                receivers too"
            );
        }
        let keys = Arc::new(keys);
        let limit = Duration::from_millis(self.webhook_timeout_ms);
        let webhooks = urls.iter().map(|url| {
            let authorities = self.authorities.clone();
            let client = HttpClient::new(TlsServer::Webhook, url.as_str(), authorities)
                .map_err(anyhow::Error::msg)?;
            let fingerprint = format!("{:x}", Sha256::digest(url.as_str()));
            Ok(Webhook {
                name: format!("{client}#{fingerprint:.8}"),
                format: Format::for_url(url),
                client,
                keys: keys.clone(),
                limit,
            })
        });
        webhooks.collect()
    }
}

fn parts(text: &str) -> Vec<&str> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).collect()
}

fn urls(text: &str) -> Result<BTreeSet<Url>, String> {
    let urls = parts(text).into_iter().enumerate().map(|(at, text)| {
        let wrong = "does not begin with https:// or http://, or has no host, or has a user or a #";
        let url = Url::parse(text).ok().filter(|url| {
            let has_host = url.host_str().is_some_and(|host| !host.is_empty());
            let is_plain = url.fragment().is_none() && url.username().is_empty();
            matches!(url.scheme(), "http" | "https") && has_host && is_plain
        });
        url.ok_or_else(|| format!("address {} {wrong}; {SHAPE}", at + 1))
    });
    urls.collect()
}

fn keys(text: &str) -> Result<Vec<SigningKey>, String> {
    let all = parts(text);
    if all.len() > 2 {
        return Err("give one secret, or two by a comma while you replace one".into());
    }
    let keys: Result<Vec<_>, _> = all.into_iter().map(SigningKey::parse).collect();
    keys.map_err(|why| format!("{why}; {MAKE}"))
}

/// A key that is shared with the receiver.
#[derive(Debug)]
struct SigningKey(SecretSlice<u8>);

impl SigningKey {
    /// Parses `whsec_…`. The error never contains the secret.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let encoded = text
            .strip_prefix("whsec_")
            .ok_or("it must begin with whsec_")?;
        let key = STANDARD
            .decode(encoded)
            .map_err(|_| "what follows whsec_ must be base64")?;
        if KEY.contains(&key.len()) {
            Ok(Self(key.into()))
        } else {
            Err("it must hold 24 to 64 bytes")
        }
    }

    /// Signs `ID.TIMESTAMP.BODY`. The ID must not contain a full stop, which would make the signed
    /// text ambiguous.
    fn sign(&self, id: &str, timestamp: i64, body: &str) -> Option<String> {
        // HMAC accepts keys of any length, so this does not fail.
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).ok()?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        Some(format!("v1,{signature}"))
    }
}

/// Returns the header `webhook-signature`.
fn signatures(keys: &[SigningKey], id: &str, timestamp: i64, body: &str) -> String {
    let signed = keys.iter().filter_map(|key| key.sign(id, timestamp, body));
    signed.collect::<Vec<_>>().join(" ")
}

/// A receiver of events.
#[derive(Clone)]
pub(crate) struct Webhook {
    /// Host and fingerprint, for logs and tables. The full address may contain a secret.
    pub(crate) name: String,
    pub(crate) format: Format,
    client: HttpClient,
    keys: Arc<Vec<SigningKey>>,
    /// Time limit of one request, including the DNS lookup.
    limit: Duration,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Webhook {
    /// Posts an event. Redirects are not followed. A receiver that does not answer may have the
    /// event.
    pub(crate) async fn post(
        &self,
        id: &str,
        body: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        let reason = match timeout(self.limit, self.exchange(id, body, now)).await {
            Ok(Ok(answer)) if answer.status().is_success() => return Ok(()),
            Ok(Ok(answer)) => {
                let status = answer.status();
                return Err(Failure {
                    is_final: is_final(status, self.format),
                    after: retry_after(answer.headers(), now),
                    ..Failure::new(format!("answered {status}"), REFUSED)
                });
            }
            Ok(Err(error)) => wording::line(&format!("{error:#}"), wording::LONGEST),
            Err(_) => format!("no answer within {:?}", self.limit),
        };
        Err(Failure::new(reason, UNREACHABLE))
    }

    async fn exchange(
        &self,
        id: &str,
        body: &str,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Response<Incoming>> {
        let agent = concat!("firstcome-reconciler/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::post(self.client.url(""))
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, agent);
        if self.format == Format::Signed {
            // Sign the time of this attempt, because receivers reject old events as replays.
            let timestamp = now.timestamp();
            let signature = signatures(&self.keys, id, timestamp, body);
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", signature);
        }
        let signed = request.body(Bytes::from(body.to_owned()));
        let request = signed.context("the request cannot be written")?;
        Ok(self.client.send(request).await?)
    }
}

const REFUSED: &str = "its log says why: 401 or 403 often mean another WEBHOOK_SECRET, 404 another \
    path; redirects are not followed";

const UNREACHABLE: &str = "check host and port, whether a firewall is between (no proxy is used), \
    and whether it speaks TLS there (if not: http://)";

/// Whether another attempt cannot help: the receiver is gone, or a chat refuses the text.
fn is_final(status: StatusCode, format: Format) -> bool {
    let is_busy = status == StatusCode::TOO_MANY_REQUESTS;
    status == StatusCode::GONE || format != Format::Signed && status.is_client_error() && !is_busy
}

/// Returns how long a receiver wants the next attempt to wait: `Retry-After` has seconds or a date
/// (RFC 9110).
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<TimeDelta> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse::<u32>() {
        Ok(seconds) => Some(TimeDelta::seconds(seconds.into())),
        Err(_) => Some(DateTime::parse_from_rfc2822(value).ok()?.to_utc() - now),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        webhooks: WebhookArgs,
    }

    fn webhooks(args: &[&str]) -> Result<Vec<Webhook>, String> {
        let args = Cli::try_parse_from(std::iter::once(&"test").chain(args))
            .map_err(|e| e.to_string())?
            .webhooks;
        args.webhooks().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn invalid_webhook_settings_are_rejected_without_showing_secrets() {
        let with_secret = |url: &str| format!("--webhook-urls {url} --webhook-secret {SECRET}");
        let three = [SECRET; 3].join(",");
        for (given, says) in [
            (
                "--webhook-urls https://h/hunter2".to_owned(),
                "openssl rand",
            ),
            (with_secret("h/hunter2"), "https://host/path"),
            (with_secret("ftp://h/hunter2"), "https://host/path"),
            (with_secret("https://h/#hunter2"), "address 1"),
            (with_secret("https://u:hunter2@h/"), "has a user"),
            ("--webhook-secret hunter2".to_owned(), "whsec_"),
            ("--webhook-secret whsec_aHVudGVyMg==".to_owned(), "24 to 64"),
            (format!("--webhook-secret {three}"), "two by a comma"),
        ] {
            let given: Vec<&str> = given.split(' ').collect();
            let error = webhooks(&given).err().unwrap();
            assert!(error.contains(says), "{given:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn empty_webhook_settings_count_as_unset_and_repeated_addresses_as_one() {
        let none = webhooks(&["--webhook-urls=", "--webhook-secret="]).unwrap();
        assert!(none.is_empty());
        let twice =
            "https://h:8443/x?hunter2, http://[::1]/y?token=hunter2,https://h:8443/x?hunter2";
        let both = webhooks(&["--webhook-urls", twice, "--webhook-secret", SECRET]);
        let names: Vec<String> = both.unwrap().into_iter().map(|it| it.name).collect();
        assert!(
            names.len() == 2 && names[0].starts_with("[::1]#"),
            "{names:?}"
        );
        assert!(names[1].starts_with("h:8443#"), "{names:?}");
        assert!(!format!("{names:?}").contains("hunter2"));
    }

    #[test]
    fn addresses_of_chats_need_no_secret() {
        let slack = ["--webhook-urls", "https://hooks.slack.com/services/T/B/x"];
        assert_eq!(webhooks(&slack).unwrap().len(), 1);
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = "2026-11-28T07:00:00Z".parse::<DateTime<Utc>>().unwrap();
        for (value, after) in [
            ("120", Some(120)),
            ("Sat, 28 Nov 2026 07:30:00 GMT", Some(1_800)),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = [(RETRY_AFTER, value.parse().unwrap())]
                .into_iter()
                .collect();
            let after = after.map(TimeDelta::seconds);
            assert_eq!(retry_after(&headers, now), after, "{value}");
        }
    }

    /// Uses the example from the specification's own libraries.
    #[test]
    fn signature_equals_that_of_the_reference_libraries() {
        let secret = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signatures(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
