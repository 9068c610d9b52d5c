//! The commands `test-email` and `test-webhook`: they send at once, bypassing the outbox, and
//! report each result with the usual cause of a failure.

use anyhow::bail;
use chrono::Utc;

use crate::args::NotifyArgs;
use crate::events::Event;
use crate::mails;
use crate::send::failure::Failure;
use crate::send::mail::Mailer;
use crate::send::webhook::WebhookArgs;
use crate::settings::mail_to;

/// Sends a test mail to each address of `ALERT_TO`. Returns whether the server accepted all.
pub async fn test_email(
    args: &NotifyArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    args.check()?;
    let Some(mailer) = args.mailer()? else {
        bail!("SMTP_URL is not set, so there is no mail server to try; mails stay in the outbox");
    };
    let recipients: Vec<String> = args.recipients().iter().map(ToString::to_string).collect();
    say(&settings(&mailer, &recipients));
    let now = Utc::now();
    let mail = mails::test(now)?;
    let mut all_taken = true;
    for to in &recipients {
        let sent = mailer.send(&mail_to(to, &mail, now)).await;
        all_taken &= sent.is_ok();
        let taken = "\n       the server took it; if it does not arrive, look at the server's log \
            and the spam folder";
        say(&outcome(&format!("to {to}"), taken, sent));
    }
    Ok(all_taken)
}

fn settings(mailer: &Mailer, recipients: &[String]) -> String {
    let server = &mailer.server;
    let from = &mailer.from;
    let limit = mailer.limit;
    let host = &server.host;
    let port = server.port;
    let encryption = server.encryption.description();
    let login = match &server.user {
        Some(user) => format!("as {user} (password not shown)"),
        None => "none".to_owned(),
    };
    let warning = if server.shows_password() {
        "\nwarning     the password can be read on the way: use ?tls=required or smtps://"
    } else {
        ""
    };
    let to = recipients.join(", ");
    format!(
        "server      {host}, port {port}\nencryption  {encryption}\nlogin       {login}\nfro\
        m        {from}\nto          {to}\ntime limit  {limit:?}{warning}"
    )
}

/// Posts an event to all targets and reports each result as a line. Returns whether all targets
/// accepted it.
pub async fn test_webhook(
    args: &WebhookArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    let webhooks = args.webhooks()?;
    if webhooks.is_empty() {
        bail!("WEBHOOK_URLS is not set, so there is no address to post to");
    }
    let now = Utc::now();
    let mut all_taken = true;
    for webhook in webhooks {
        let event = Event::test(now);
        let body = event.body(webhook.format);
        let posted = webhook.post(&event.id, &body, now).await;
        all_taken &= posted.is_ok();
        say(&outcome(&format!("webhook {}", webhook.name), "", posted));
    }
    Ok(all_taken)
}

fn outcome(target: &str, taken: &str, sent: Result<(), Failure>) -> String {
    match sent {
        Ok(()) => format!("ok     {target}{taken}"),
        Err(Failure { reason, advice, .. }) => {
            format!("FAILED {target}: {reason}\n       -> {advice}")
        }
    }
}
