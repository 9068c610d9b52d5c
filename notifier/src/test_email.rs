//! The command `test-email`: sends a mail to each recipient at once, bypassing the outbox, and
//! reports every step.

use std::fmt::Write as _;

use chrono::Utc;
use lettre::message::Mailbox;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use uuid::Uuid;

use super::args::{NotifyArgs, Sending};
use super::render::{self, Rendered};
use super::send::Envelope;
use super::smtp::{CONTENT_LIMIT, Encryption, SendError, SmtpStep};

/// Sends a test mail to each address of `ALERT_TO` and reports each step as a line. Returns whether
/// the server accepted all of them.
pub async fn test_email(
    args: &NotifyArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    args.check()?;
    let Some((sending, from)) = args.sending()?.zip(args.from()) else {
        anyhow::bail!(
            "SMTP_URL is not set, so there is no mail server to try; mails stay in the outbox"
        );
    };
    say(&settings(&sending, &from, &args.recipients()));
    if !reach(&sending, &mut say).await {
        return Ok(false);
    }
    let host = lettre::transport::smtp::extension::ClientId::default().to_string();
    let mail = render::test(Utc::now(), &host)?;
    let mut all_taken = true;
    for to in args.recipients() {
        all_taken &= send(&sending, &from, &to, &mail, &mut say).await?;
    }
    Ok(all_taken)
}

fn settings(sending: &Sending, from: &Mailbox, to: &[Mailbox]) -> String {
    let address = &sending.server.address;
    let mut text = format!("server      {}, port {}\n", address.host, address.port);
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    let user = address.user.as_deref().map_or_else(
        || "none".to_owned(),
        |user| format!("as {user} (password not shown)"),
    );
    // Writing to a String can't fail.
    let _ = writeln!(text, "encryption  {}", address.encryption);
    let _ = writeln!(text, "login       {user}");
    let _ = writeln!(text, "from        {from}\nto          {}", to.join(", "));
    let _ = write!(
        text,
        "time limit  {:?} up to the mail itself, then {CONTENT_LIMIT:?}",
        sending.limit
    );
    if sending.server.shows_password() {
        text.push_str(
            "\nwarning     the password can be read on the way: use ?tls=required or smtps://",
        );
    }
    text
}

/// Checks name resolution and the port separately, to report which fails. lettre does both at once.
async fn reach(sending: &Sending, say: &mut (impl FnMut(&str) + Send)) -> bool {
    let address = &sending.server.address;
    let host = address.host.trim_matches(['[', ']']);
    let found = match timeout(sending.limit, lookup_host((host, address.port))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => {
            say(&format!(
                "FAILED look up {host}: {error}\n       -> check the server's name in SMTP_URL, and this host's DNS"
            ));
            return false;
        }
        Err(_) => {
            say(&format!(
                "FAILED look up {host}: no answer within {:?}\n       -> check this host's DNS",
                sending.limit
            ));
            return false;
        }
    };
    let mut last = "the name has no address".to_owned();
    for target in found {
        match timeout(sending.limit, TcpStream::connect(target)).await {
            Ok(Ok(_)) => {
                say(&format!("ok     reach {target}"));
                return true;
            }
            Ok(Err(error)) => last = format!("{target}: {error}"),
            Err(_) => last = format!("{target}: no answer within {:?}", sending.limit),
        }
    }
    say(&format!(
        "FAILED reach {last}\n       -> nobody listens there, or a firewall is between: check host and port in SMTP_URL \
         (587 with ?tls=required, 465 with smtps://, 25 between servers)"
    ));
    false
}

async fn send(
    sending: &Sending,
    from: &Mailbox,
    to: &Mailbox,
    mail: &Rendered,
    say: &mut (impl FnMut(&str) + Send),
) -> anyhow::Result<bool> {
    say(&format!("to {to}"));
    let message_id = format!("{}@{}", Uuid::now_v7(), from.email.domain());
    let envelope = Envelope {
        from,
        to,
        subject: &mail.subject,
        message_id: &message_id,
        thread: None,
        date: Utc::now(),
        text: &mail.text,
        html: &mail.html,
    };
    let raw = envelope.message()?.formatted();
    let mut done = |step: SmtpStep| say(&format!("ok     {step}"));
    let sent = sending
        .server
        .deliver(sending.limit, &from.email, &to.email, &raw, &mut done)
        .await;
    match sent {
        Ok(()) => say(
            "       the server took it; if it does not arrive, look at the server's log and the spam folder",
        ),
        Err(ref error) => say(&format!(
            "FAILED {error}\n       -> {}",
            advice(error, sending)
        )),
    }
    Ok(sent.is_ok())
}

/// Returns the usual reason for an error.
fn advice(error: &SendError, sending: &Sending) -> &'static str {
    let is_refused = error
        .cause
        .as_ref()
        .is_some_and(|cause| cause.is_permanent() || cause.is_transient());
    match error.step {
        SmtpStep::Connect if sending.server.address.encryption == Encryption::Implicit => {
            "the port may not speak TLS from the first byte (587 and 25 don't: use smtp://…?tls=required), or its certificate \
             is not trusted or names another host (a private authority: SSL_CERT_FILE)"
        }
        SmtpStep::Connect if is_refused => {
            "the server does not talk to this host: its log says why"
        }
        SmtpStep::Connect => {
            "somebody listens but does not greet as a mail server does: 465 wants smtps://; or a firewall holds the connection"
        }
        SmtpStep::StartTls => {
            "the server does not offer STARTTLS (use smtps:// on 465), or its certificate is not trusted or names another host \
             (a private authority: SSL_CERT_FILE)"
        }
        SmtpStep::Login => {
            "the user or the password is wrong, or the server wants TLS first (?tls=required); special characters in SMTP_URL \
             are written as %40 for @, %23 for #"
        }
        SmtpStep::Sender => {
            "the server does not take mail from ALERT_FROM: it may want a login, TLS first (?tls=required), or an address of its \
             own domain"
        }
        SmtpStep::Recipient => {
            "the server does not take mail for this address: check ALERT_TO, and whether it relays for this host"
        }
        SmtpStep::Content => {
            "the server took sender and recipient but not the mail: its log says why (size, spam, policy)"
        }
    }
}
