//! Settings of webhooks and of Alertmanager.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use firstcome_shared::config::{path, secret};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::alertmanager::OWN_LABELS;
use super::event::EventKind;
use super::post::{self, PostTarget};
use super::receivers::Receivers;
use super::sign::SigningSecret;

/// Most addresses of one setting: each has a task and a connection of its own.
const ADDRESSES: usize = 16;

/// All but `issued`: most receivers want to know of trouble.
const EVENTS: &str = "sold_out,drift,broken,resolved";

/// Where events and alerts go beside mails.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Webhooks and Alertmanager")]
pub struct WebhookArgs {
    /// Addresses to which events are posted, several by commas, signed as standardwebhooks.com
    /// says: `https://…`, or `http://…` within a network of your own
    #[arg(long, env = "WEBHOOK_URLS", hide_env_values = true, value_parser = secret(webhook_urls))]
    pub webhook_urls: Option<SecretString>,
    /// What signs events: `whsec_` and 24 to 64 random bytes in base64; two by a comma while you
    /// replace one, and both sign
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true, value_parser = secret(webhook_secrets))]
    pub webhook_secret: Option<SecretString>,
    /// Events that are posted, by commas: issued (once a pass), sold_out, drift, broken, resolved
    #[arg(long, env = "WEBHOOK_EVENTS", default_value = EVENTS, value_parser = event_list)]
    pub webhook_events: String,
    /// Timeout for one event, or for one list of alerts, in milliseconds
    #[arg(long, env = "WEBHOOK_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub webhook_timeout_ms: u64,
    /// Certificate authorities to trust for these addresses beside the usual ones, as a PEM file
    #[arg(long, env = "WEBHOOK_CA_FILE", value_parser = path)]
    pub webhook_ca_file: Option<PathBuf>,
    /// Alertmanagers that are told which alerts fire, several by commas, as
    /// `http://alertmanager:9093`
    #[arg(long, env = "ALERTMANAGER_URL", hide_env_values = true, value_parser = secret(alertmanager_urls))]
    pub alertmanager_url: Option<SecretString>,
    /// Labels of every alert, several by commas, as `installation=shop,region=eu`: two
    /// installations that tell one Alertmanager need labels that differ
    #[arg(long, env = "ALERTMANAGER_LABELS", default_value = "", value_parser = label_list)]
    pub alertmanager_labels: String,
}

// A variable that is set but empty, as docker-compose makes them, counts as not set.
impl WebhookArgs {
    /// Checks what clap can't, and reads the file of certificate authorities.
    pub(crate) fn receivers(&self) -> anyhow::Result<Receivers> {
        let (urls, secrets) = (
            list(self.webhook_urls.as_ref()),
            list(self.webhook_secret.as_ref()),
        );
        if !urls.is_empty() && secrets.is_empty() {
            bail!(
                "WEBHOOK_URLS is set but WEBHOOK_SECRET is not: make one with `echo whsec_$(openssl rand -base64 32)`, and \
                 give it to the receivers too"
            );
        }
        let path = self
            .webhook_ca_file
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty());
        let authorities = path.map(|path| {
            std::fs::read(path)
                .with_context(|| format!("WEBHOOK_CA_FILE {} can't be read", path.display()))
        });
        let tls = post::tls(&authorities.transpose()?.unwrap_or_default())?;
        let targets = |urls: Vec<&str>, add: &str| -> anyhow::Result<Vec<PostTarget>> {
            let urls: BTreeSet<Url> = urls
                .into_iter()
                .map(|text| address(text, add))
                .collect::<Result<_, _>>()?;
            urls.iter().map(|url| PostTarget::new(url, &tls)).collect()
        };
        let secrets: Result<Vec<SigningSecret>, String> =
            secrets.into_iter().map(SigningSecret::parse).collect();
        Ok(Receivers {
            events: events(&self.webhook_events).map_err(anyhow::Error::msg)?,
            targets: targets(urls, "").context("WEBHOOK_URLS")?,
            alertmanagers: targets(list(self.alertmanager_url.as_ref()), "/api/v2/alerts")
                .context("ALERTMANAGER_URL")?,
            labels: labels(&self.alertmanager_labels)
                .map_err(anyhow::Error::msg)
                .context("ALERTMANAGER_LABELS")?,
            secrets: Arc::new(secrets.map_err(anyhow::Error::msg)?),
            limit: Duration::from_millis(self.webhook_timeout_ms),
        })
    }
}

impl Default for WebhookArgs {
    fn default() -> Self {
        Self {
            webhook_urls: None,
            webhook_secret: None,
            webhook_events: EVENTS.to_owned(),
            webhook_timeout_ms: 15_000,
            webhook_ca_file: None,
            alertmanager_url: None,
            alertmanager_labels: String::new(),
        }
    }
}

fn list(setting: Option<&SecretString>) -> Vec<&str> {
    let parts = setting
        .into_iter()
        .flat_map(|text| text.expose_secret().split(','));
    parts
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

/// An address with `add` behind its path.
fn address(text: &str, add: &str) -> anyhow::Result<Url> {
    let mut url = Url::parse(text).context("it is no address")?;
    if !add.is_empty() {
        url.set_path(&format!("{}{add}", url.path().trim_end_matches('/')));
    }
    Ok(url)
}

fn webhook_urls(text: &str) -> Result<(), String> {
    urls(text, |_| true).map_err(|why| format!("{why}; give https://host/path, several by commas"))
}

fn alertmanager_urls(text: &str) -> Result<(), String> {
    let wrong = "give http://host:9093 or https://host/prefix, without ? and without /api/v2, several by commas";
    let is_base = |url: &Url| url.query().is_none() && !url.path().contains("/api/v");
    urls(text, is_base).map_err(|why| format!("{why}; {wrong}"))
}

fn urls(text: &str, is_fine: fn(&Url) -> bool) -> Result<(), String> {
    let all: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    if all.len() > ADDRESSES {
        return Err(format!(
            "there are {} addresses, and {ADDRESSES} are allowed",
            all.len()
        ));
    }
    for (at, one) in all.into_iter().enumerate() {
        let wrong = format!(
            "address {} does not begin with https:// or http://, or has no host, or has a #",
            at + 1
        );
        let url = Url::parse(one).map_err(|_| wrong.clone())?;
        let is_web = matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty());
        if !is_web || url.fragment().is_some() || !is_fine(&url) {
            return Err(wrong);
        }
    }
    Ok(())
}

fn webhook_secrets(text: &str) -> Result<(), String> {
    let all: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    if all.len() > 2 {
        return Err("give one secret, or two by a comma while you replace one".into());
    }
    let make = "make one with `echo whsec_$(openssl rand -base64 32)`";
    all.into_iter()
        .try_for_each(|one| SigningSecret::parse(one).map(drop))
        .map_err(|why| format!("{why}; {make}"))
}

fn event_list(text: &str) -> Result<String, String> {
    events(text).map(|_| text.to_owned())
}

fn events(text: &str) -> Result<BTreeSet<EventKind>, String> {
    let text = if text.trim().is_empty() { EVENTS } else { text };
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let known = "issued, sold_out, drift, broken, resolved";
    let event = |word| {
        EventKind::of_word(word)
            .ok_or_else(|| format!("there is no event {word:?}; there are {known}"))
    };
    words.map(event).collect()
}

fn label_list(text: &str) -> Result<String, String> {
    labels(text).map(|_| text.to_owned())
}

/// Labels as Prometheus names them.
fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, value) = one
            .split_once('=')
            .map_or((one, ""), |(name, value)| (name.trim(), value.trim()));
        let mut letters = name.bytes();
        let is_name = letters
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_');
        if !is_name || value.is_empty() {
            return Err(format!(
                "{one:?} is no label; give name=value, several by commas, as installation=shop"
            ));
        }
        if OWN_LABELS.contains(&name) {
            return Err(format!(
                "{name} is a label that alerts have already: choose another name"
            ));
        }
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(labels)
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

    fn receivers(args: &[&str]) -> Result<Receivers, String> {
        let args = Cli::try_parse_from(std::iter::once(&"test").chain(args))
            .map_err(|e| e.to_string())?
            .webhooks;
        args.receivers().map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn what_is_wrong_is_refused_with_what_to_do_and_without_secrets() {
        let (many, three) = (
            ["https://hunter2.example.com/a"; ADDRESSES + 1].join(","),
            [SECRET; 3].join(","),
        );
        for (given, says) in [
            (&["--webhook-urls", "https://h/hunter2"][..], "openssl rand"),
            (
                &["--webhook-urls", "h/hunter2", "--webhook-secret", SECRET],
                "https://host/path",
            ),
            (
                &[
                    "--webhook-urls",
                    "ftp://h/hunter2",
                    "--webhook-secret",
                    SECRET,
                ],
                "https://host/path",
            ),
            (
                &[
                    "--webhook-urls",
                    "https://h/#hunter2",
                    "--webhook-secret",
                    SECRET,
                ],
                "address 1",
            ),
            (
                &["--webhook-urls", many.as_str(), "--webhook-secret", SECRET],
                "16 are allowed",
            ),
            (&["--webhook-secret", "hunter2"], "whsec_"),
            (&["--webhook-secret", "whsec_aHVudGVyMg=="], "24 to 64"),
            (&["--webhook-secret", three.as_str()], "two by a comma"),
            (&["--webhook-events", "issued,hunter"], "sold_out"),
            (&["--webhook-timeout-ms", "5"], "100..=60000"),
            (&["--webhook-ca-file", "/no/such/file"], "WEBHOOK_CA_FILE"),
            (
                &[
                    "--alertmanager-url",
                    "http://u:hunter2@h:9093/api/v2/alerts",
                ],
                "without /api/v2",
            ),
            (&["--alertmanager-labels", "shop"], "name=value"),
            (&["--alertmanager-labels", "shop=a,=b"], "name=value"),
            (&["--alertmanager-labels", "a-b=c"], "name=value"),
            (
                &["--alertmanager-labels", "shop=a,drop=b"],
                "drop is a label",
            ),
            (&["--alertmanager-labels", "shop=a,shop=b"], "given twice"),
        ] {
            let error = receivers(given).err().unwrap();
            assert!(error.contains(says), "{given:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_set_to_nothing_is_not_set_and_an_address_counts_once() {
        let settings =
            ["urls", "secret", "events", "ca-file"].map(|name| format!("--webhook-{name}="));
        let mut empty: Vec<&str> = settings.iter().map(String::as_str).collect();
        empty.extend(["--alertmanager-url=", "--alertmanager-labels="]);
        let none = receivers(&empty).unwrap();
        assert!(none.targets.is_empty() && none.alertmanagers.is_empty());
        assert_eq!(none.events, events(EVENTS).unwrap());
        let twice =
            "https://u:hunter2@h:8443/x, http://[::1]/y?token=hunter2,https://u:hunter2@h:8443/x";
        let both = receivers(&[
            "--webhook-urls",
            twice,
            "--webhook-secret",
            SECRET,
            "--alertmanager-url",
            "http://a/p/",
        ]);
        let shown = format!("{:?}", both.unwrap());
        assert!(
            shown.contains("[http:[::1]#") || shown.contains("[[::1]#"),
            "{shown}"
        );
        assert_eq!(shown.matches("h:8443#").count(), 1, "{shown}");
        assert!(
            shown.contains("[a#") && !shown.contains("hunter2") && !shown.contains("token"),
            "{shown}"
        );
    }
}
