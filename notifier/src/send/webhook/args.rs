//! Settings of webhooks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use firstcome_shared::config::{secret, ssl_cert_file};
use firstcome_shared::tuning::Tuning;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::Webhook;
use super::event::Format;
use super::sign::SigningSecret;

/// Maximum number of addresses.
const ADDRESSES: usize = 16;

/// How a secret is made.
const MAKE: &str = "make one with `echo whsec_$(openssl rand -base64 32)`";

/// The targets of events.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookArgs {
    /// Addresses that get every event, several separated by commas, signed as standardwebhooks.com
    /// specifies: `https://…`, or `http://…` within a private network. Addresses of Slack, Teams,
    /// Discord and Google Chat get a text instead. SSL_CERT_FILE names further certificate
    /// authorities
    #[arg(long, env = "WEBHOOK_URLS", hide_env_values = true, value_parser = secret(webhook_urls))]
    pub webhook_urls: Option<SecretString>,
    /// Secret that signs events: `whsec_` and 24 to 64 random bytes in base64; two separated by a
    /// comma while you replace one, and both sign
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_parser = secret(webhook_secrets))]
    pub webhook_secret: Option<SecretString>,
    /// Maximum time for one event.
    #[arg(skip = Tuning::WebhookTimeoutMs.or(15_000_u64))]
    pub webhook_timeout_ms: u64,
    /// File of additional certificate authorities.
    #[arg(skip = ssl_cert_file())]
    pub authorities: Option<PathBuf>,
}

// An empty variable counts as unset, because docker-compose passes unset variables as empty.
impl WebhookArgs {
    /// Checks constraints that clap can't express, and reads the file of certificate authorities.
    pub(crate) fn webhooks(&self) -> anyhow::Result<Vec<Webhook>> {
        let urls = list(self.webhook_urls.as_ref());
        let urls: Result<BTreeSet<Url>, _> = urls.into_iter().map(Url::parse).collect();
        let urls = urls.context("WEBHOOK_URLS holds no address")?;
        let secrets = list(self.webhook_secret.as_ref());
        let is_signed = |url: &Url| Format::of(url) == Format::Signed;
        if secrets.is_empty() && urls.iter().any(is_signed) {
            bail!(
                "WEBHOOK_URLS is set but WEBHOOK_SECRET is not: {MAKE}, and give it to the receivers too"
            );
        }
        let secrets: Result<Vec<SigningSecret>, String> =
            secrets.into_iter().map(SigningSecret::parse).collect();
        let secrets = Arc::new(secrets.map_err(anyhow::Error::msg)?);
        let limit = Duration::from_millis(self.webhook_timeout_ms);
        urls.iter()
            .map(|url| Webhook::new(url, self.authorities.clone(), secrets.clone(), limit))
            .collect()
    }
}

impl Default for WebhookArgs {
    fn default() -> Self {
        Self {
            webhook_urls: None,
            webhook_secret: None,
            webhook_timeout_ms: 15_000,
            authorities: None,
        }
    }
}

fn list(setting: Option<&SecretString>) -> Vec<&str> {
    setting
        .map(|text| parts(text.expose_secret()))
        .unwrap_or_default()
}

fn parts(text: &str) -> Vec<&str> {
    let parts = text.split(',').map(str::trim);
    parts.filter(|part| !part.is_empty()).collect()
}

fn webhook_urls(text: &str) -> Result<(), String> {
    let all = parts(text);
    let shape = "give https://host/path, several separated by commas";
    if all.len() > ADDRESSES {
        return Err(format!(
            "there are {} addresses, and {ADDRESSES} are allowed; {shape}",
            all.len()
        ));
    }
    for (at, one) in all.into_iter().enumerate() {
        let url = Url::parse(one).ok().filter(|url| {
            let is_web = matches!(url.scheme(), "http" | "https");
            is_web
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.fragment().is_none()
        });
        if url.is_none() {
            return Err(format!(
                "address {} does not begin with https:// or http://, or has no host, or has a #; {shape}",
                at + 1
            ));
        }
    }
    Ok(())
}

fn webhook_secrets(text: &str) -> Result<(), String> {
    let all = parts(text);
    if all.len() > 2 {
        return Err("give one secret, or two by a comma while you replace one".into());
    }
    let parse = |one| SigningSecret::parse(one).map(drop);
    all.into_iter()
        .try_for_each(parse)
        .map_err(|why| format!("{why}; {MAKE}"))
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
        let many = ["https://hunter2.example.com/a"; ADDRESSES + 1].join(",");
        let three = [SECRET; 3].join(",");
        for (given, says) in [
            (
                "--webhook-urls https://h/hunter2".to_owned(),
                "openssl rand",
            ),
            (with_secret("h/hunter2"), "https://host/path"),
            (with_secret("ftp://h/hunter2"), "https://host/path"),
            (with_secret("https://h/#hunter2"), "address 1"),
            (with_secret(&many), "16 are allowed"),
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
            "https://u:hunter2@h:8443/x, http://[::1]/y?token=hunter2,https://u:hunter2@h:8443/x";
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
}
