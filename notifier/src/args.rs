//! Settings of mail.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use firstcome_shared::config::{secret, ssl_cert_file};
use firstcome_shared::domain::CouponId;
use firstcome_shared::tuning::Tuning;
use lettre::message::Mailbox;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::mails::{AttachedCampaign, Links};
use super::send::mail::{Mailer, SmtpServer};

/// Maximum length of a mail address in the outbox, in bytes.
const LONGEST_ADDRESS: usize = 320;

/// Recipients, server and content of mails.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mail")]
pub struct NotifyArgs {
    /// Mail server, as `smtp://user:password@host:port/NAME?tls=required` (STARTTLS) or `smtps://…`
    /// (TLS from the first byte); NAME is this host's name for EHLO and may be left out. Without
    /// it, mails stay in the outbox. SSL_CERT_FILE names further certificate authorities
    #[arg(long, env = "SMTP_URL", hide_env_values = true, value_parser = secret(smtp_url))]
    pub smtp_url: Option<SecretString>,
    /// Maximum time for one mail, from connecting to the server's confirmation. Servers may scan a
    /// mail before they confirm it; a client that gives up earlier sends it twice.
    #[arg(skip = 120_000_u64)]
    pub smtp_timeout_ms: u64,
    /// File of additional certificate authorities.
    #[arg(skip = ssl_cert_file())]
    pub authorities: Option<PathBuf>,
    /// Sender of mails, as `Firstcome <firstcome@example.com>`
    #[arg(long, env = "ALERT_FROM", value_parser = one_mailbox)]
    pub alert_from: Option<String>,
    /// Recipients of mails, several separated by commas
    #[arg(long, env = "ALERT_TO", value_parser = mailbox_list)]
    pub alert_to: Option<String>,
    /// Pause before a persistent problem is mailed again, the first time.
    #[arg(skip = Tuning::AlertCooldownSeconds.or(14_400_u64))]
    pub alert_cooldown_seconds: u64,
    /// How long an outage must last before it is mailed, because stores restart.
    #[arg(skip = Tuning::AlertPatienceSeconds.or(30_u64))]
    pub alert_patience_seconds: u64,
    /// Address at which operators reach this reconciler; mails link to it and show it in commands
    #[arg(long, env = "PUBLIC_URL", value_parser = web_url)]
    pub public_url: Option<String>,
    /// Address at which operators and users reach the API, if not at API_URL; mails show it in
    /// commands, the operations page links to coupon pages there
    #[arg(long, env = "API_PUBLIC_URL", value_parser = web_url)]
    pub api_public_url: Option<String>,
    /// Address at which this process reaches the API; without it the operations page changes nothing
    #[arg(long, env = "API_URL", help_heading = "HTTP", value_parser = web_url)]
    pub api_url: Option<String>,
    /// The file of `attach`, quoted for a shell, if the mails are about a system that is not ours.
    #[arg(skip)]
    pub attached_file: Option<String>,
    /// Its campaigns.
    #[arg(skip)]
    pub campaigns: BTreeMap<CouponId, AttachedCampaign>,
}

// An empty variable counts as unset, because docker-compose passes unset variables as empty.
impl NotifyArgs {
    /// Checks constraints that clap can't express: incomplete settings, and the file of certificate
    /// authorities.
    pub fn check(&self) -> anyhow::Result<()> {
        let is_complete = self.from().is_some() && !self.recipients().is_empty();
        if self.url().is_some() && !is_complete {
            bail!(
                "SMTP_URL is set: say who mails come from (ALERT_FROM) and who gets them (ALERT_TO)"
            );
        }
        self.mailer().map(drop)
    }

    /// Returns the client of the mail server, or `None` without a mail server or a sender.
    pub(crate) fn mailer(&self) -> anyhow::Result<Option<Mailer>> {
        let Some((url, from)) = self.url().zip(self.from()) else {
            return Ok(None);
        };
        let authorities = match &self.authorities {
            Some(path) => std::fs::read(path)
                .with_context(|| format!("SSL_CERT_FILE {} can't be read", path.display()))?,
            None => Vec::new(),
        };
        let limit = Duration::from_millis(self.smtp_timeout_ms);
        let mailer = Mailer::new(url, &authorities, from, limit);
        mailer.map(Some).map_err(anyhow::Error::msg)
    }

    pub fn from(&self) -> Option<Mailbox> {
        let from = self.alert_from.as_deref().unwrap_or_default();
        mailboxes(from).ok()?.pop()
    }

    /// Returns the recipients, each address once.
    pub fn recipients(&self) -> Vec<Mailbox> {
        let mut all = mailboxes(self.alert_to.as_deref().unwrap_or_default()).unwrap_or_default();
        let mut seen = std::collections::HashSet::new();
        all.retain(|to| seen.insert(to.email.clone()));
        all
    }

    /// Returns the addresses for links. Without API_PUBLIC_URL, users are assumed to reach the API
    /// where this process reaches it.
    pub(super) fn links(&self) -> Links {
        let [public, for_users, api] = [&self.public_url, &self.api_public_url, &self.api_url]
            .map(|url| url.clone().filter(|url| !url.is_empty()));
        Links {
            public,
            api: for_users.or(api),
            file: self.attached_file.clone(),
            campaigns: self.campaigns.clone(),
        }
    }

    fn url(&self) -> Option<&SecretString> {
        let url = self.smtp_url.as_ref();
        url.filter(|url| !url.expose_secret().is_empty())
    }
}

fn smtp_url(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Ok(())
    } else {
        SmtpServer::parse(&text.to_owned().into()).map(drop)
    }
}

fn one_mailbox(text: &str) -> Result<String, String> {
    match mailboxes(text)?.len() {
        0 | 1 => Ok(text.to_owned()),
        _ => Err("mails come from one address".into()),
    }
}

fn mailbox_list(text: &str) -> Result<String, String> {
    mailboxes(text).map(|_| text.to_owned())
}

fn mailboxes(text: &str) -> Result<Vec<Mailbox>, String> {
    let wrong = "give ops@example.com or Ops <ops@example.com>, several of ALERT_TO by commas";
    let parts = text.split(',').map(str::trim);
    let given = parts.filter(|_| !text.trim().is_empty());
    let all: Option<Vec<Mailbox>> = given
        .map(|text| {
            let is_clean = !text.chars().any(char::is_control) && text.len() <= LONGEST_ADDRESS;
            text.parse().ok().filter(|_| is_clean)
        })
        .collect();
    all.ok_or_else(|| wrong.to_owned())
}

fn web_url(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        _ if text.is_empty() => Ok(String::new()),
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(url.as_str().trim_end_matches('/').to_owned())
        }
        _ => Err("it must begin with http:// or https:// and have no ? or #".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        notify: NotifyArgs,
    }

    fn args(args: &[&str]) -> Result<NotifyArgs, String> {
        let args = Cli::try_parse_from(std::iter::once(&"test").chain(args))
            .map_err(|e| e.to_string())?
            .notify;
        args.check().map_err(|e| e.to_string())?;
        Ok(args)
    }

    #[test]
    fn recipients_are_separated_by_commas_and_repeated_ones_count_once() {
        let args = args(&[
            "--alert-from",
            "F <f@x.org>",
            "--alert-to",
            "a@x.org, B <b@x.org>,a@x.org",
        ])
        .unwrap();
        let recipients = args.recipients();
        let recipients = recipients.iter().map(ToString::to_string);
        assert_eq!(recipients.collect::<Vec<_>>(), ["a@x.org", "B <b@x.org>"]);
    }

    #[test]
    fn incomplete_or_invalid_settings_are_rejected_with_advice() {
        for (given, says) in [
            ("--smtp-url smtp://h", "ALERT_FROM"),
            ("--smtp-url smtp://h --alert-from f@x.org", "ALERT_TO"),
            (
                "--smtp-url http://h --alert-from f@x.org --alert-to a@x.org",
                "smtp://",
            ),
            (
                "--smtp-url smtp://h?tls=maybe --alert-from f@x.org --alert-to a@x.org",
                "tls",
            ),
            ("--alert-to nobody", "ops@example.com"),
            ("--alert-from f@x.org\r\nBcc:a@x.org", "ops@example.com"),
            ("--api-public-url ftp://x", "http"),
            ("--public-url javascript:alert(1)", "http"),
        ] {
            let given: Vec<&str> = given.split(' ').collect();
            let error = args(&given).err().unwrap();
            assert!(error.contains(says), "{given:?}: {error}");
        }
    }

    #[test]
    fn empty_mail_settings_count_as_unset() {
        let empty = [
            "--smtp-url=",
            "--alert-from=",
            "--alert-to=",
            "--api-public-url=",
            "--public-url=",
        ];
        let args = args(&empty).unwrap();
        assert!(
            args.mailer().unwrap().is_none()
                && args.from().is_none()
                && args.recipients().is_empty()
        );
        assert_eq!(args.links(), Links::default());
    }

    #[test]
    fn api_links_use_the_public_address_if_there_is_one() {
        let api = |given: &[&str]| args(given).unwrap().links().api.unwrap();
        let own = "--api-url=https://api.internal/";
        assert_eq!(api(&[own]), "https://api.internal");
        let public = "--api-public-url=https://shop.example/coupons";
        assert_eq!(api(&[own, public]), "https://shop.example/coupons");
    }

    #[test]
    fn error_messages_and_debug_output_do_not_contain_the_password() {
        for wrong in [
            "smtp://u:hunter2@h",
            "http://u:hunter2@h",
            "smtp://u:hunter2@h?tls=x",
        ] {
            let error = args(&["--smtp-url", wrong, "--alert-from", "f@x.org"])
                .err()
                .unwrap();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let all: Vec<&str> =
            "--smtp-url smtp://u:hunter2@h --alert-from f@x.org --alert-to a@x.org"
                .split(' ')
                .collect();
        let args = args(&all).unwrap();
        assert!(!format!("{args:?}").contains("hunter2"));
    }
}
