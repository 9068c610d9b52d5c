//! The command `test-webhook`: posts an event to each target at once, bypassing the outbox, and
//! reports the responses.

use chrono::Utc;
use firstcome_shared::http::origin::HttpStep;

use super::event::Event;
use super::{PostError, WebhookArgs};

/// Posts an event to all targets and reports each result as a line. Returns whether all targets
/// accepted it.
pub async fn test_webhook(
    args: &WebhookArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    let webhooks = args.webhooks()?;
    if webhooks.is_empty() {
        anyhow::bail!("WEBHOOK_URLS is not set, so there is no address to post to");
    }
    let now = Utc::now();
    let mut all_took_it = true;
    for webhook in webhooks {
        let event = Event::test(now);
        let name = &webhook.name;
        match webhook
            .post(&event.id, &event.body(webhook.format), now)
            .await
        {
            Ok(()) => say(&format!("ok     webhook {name}")),
            Err(error) => {
                all_took_it = false;
                let advice = advice(&error);
                say(&format!(
                    "FAILED webhook {name}: {error}\n       -> {advice}"
                ));
            }
        }
    }
    Ok(all_took_it)
}

fn advice(error: &PostError) -> &'static str {
    match error {
        PostError::Refused { status, .. } => match status.as_u16() {
            300..=399 => "redirects are not followed: set the address that it leads to",
            400 | 401 | 403 => {
                "it may want another WEBHOOK_SECRET, or a user and password in the address"
            }
            404 | 405 => "check the path of the address",
            410 => "it wants no more webhooks: remove it from WEBHOOK_URLS",
            429 => "it is asked too often",
            _ => "its log says why",
        },
        PostError::NoAnswer { step, .. } => match step {
            HttpStep::Connect => "check host and port, and whether a firewall is between",
            HttpStep::Tls => {
                "its certificate is not trusted or names another host (a private authority: SSL_CERT_FILE), or it speaks no TLS \
                 there: then http://"
            }
            HttpStep::Answer => {
                "somebody listens but does not answer as an HTTP server, or not in time"
            }
        },
    }
}
