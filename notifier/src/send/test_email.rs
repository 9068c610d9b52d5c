//! The command `test-email`: sends a mail to each recipient at once, bypassing the outbox, and
//! reports each step with the usual cause of a failure.

use std::fmt::Write as _;

use chrono::Utc;
use uuid::Uuid;

use super::mail::{Envelope, MailError, Mailer};
use super::smtp::CONTENT_LIMIT;
use crate::args::NotifyArgs;
use crate::mails;

/// Sends a test mail to each address of `ALERT_TO`. Returns whether the server accepted all.
pub async fn test_email(
    args: &NotifyArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    args.check()?;
    let Some(mailer) = args.mailer()? else {
        anyhow::bail!(
            "SMTP_URL is not set, so there is no mail server to try; mails stay in the outbox"
        );
    };
    let recipients: Vec<String> = args.recipients().iter().map(ToString::to_string).collect();
    say(&settings(&mailer, &recipients));
    let now = Utc::now();
    let mail = mails::test(now)?;
    let mut all_taken = true;
    for to in &recipients {
        let envelope = Envelope {
            to,
            subject: &mail.subject,
            id: &Uuid::now_v7().to_string(),
            thread: None,
            date: now,
            text: &mail.text,
            html: &mail.html,
        };
        match mailer.deliver(&envelope).await {
            Ok(()) => say(&format!(
                "ok     to {to}\n       the server took it; if it does not arrive, look at the server's log and the spam folder"
            )),
            Err(error) => {
                all_taken = false;
                let advice = match &error {
                    MailError::Unwritable(_) => "check ALERT_FROM and ALERT_TO",
                    MailError::Send(error) => error.advice(),
                };
                say(&format!("FAILED to {to}: {error}\n       -> {advice}"));
            }
        }
    }
    Ok(all_taken)
}

fn settings(mailer: &Mailer, recipients: &[String]) -> String {
    let address = &mailer.server.address;
    let user = address.user.as_deref();
    let user = user.map_or("none".to_owned(), |user| {
        format!("as {user} (password not shown)")
    });
    let mut text = format!("server      {}, port {}\n", address.host, address.port);
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "encryption  {}\nlogin       {user}",
        address.encryption
    );
    let _ = writeln!(
        text,
        "from        {}\nto          {}",
        mailer.from,
        recipients.join(", ")
    );
    let _ = write!(
        text,
        "time limit  {:?} to connect, then {CONTENT_LIMIT:?}",
        mailer.limit
    );
    if address.shows_password {
        text.push_str(
            "\nwarning     the password can be read on the way: use ?tls=required or smtps://",
        );
    }
    text
}
