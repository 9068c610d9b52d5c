//! The command `test-webhook`: posts an event to each target at once, bypassing the outbox, and
//! reports the responses.

use chrono::Utc;
use firstcome_shared::http::origin::HttpStep;

use super::WebhookArgs;
use super::event::WebhookEvent;
use super::post::{NoAnswer, PostAnswer};

/// Posts an event to all targets and reports each result as a line. Returns whether all targets
/// accepted it.
pub async fn test_webhook(
    args: &WebhookArgs,
    mut say: impl FnMut(&str) + Send,
) -> anyhow::Result<bool> {
    let receivers = args.receivers()?;
    if receivers.targets.is_empty() {
        anyhow::bail!("WEBHOOK_URLS is not set, so there is no address to post to");
    }
    say(&format!("time limit  {:?} a request", receivers.limit));
    let now = Utc::now();
    let mut all_took_it = true;
    for post in receivers.signed_posts() {
        let event = WebhookEvent::test(now);
        let answer = post.event(&event.id, now, &event.body()).await;
        all_took_it &= tell(&post.target.name, answer, &mut say);
    }
    Ok(all_took_it)
}

fn tell(
    name: &str,
    answer: Result<PostAnswer, NoAnswer>,
    say: &mut (impl FnMut(&str) + Send),
) -> bool {
    let (error, advice) = match answer {
        Ok(answer) => {
            let status = answer.status;
            let advice = advice_on(answer.status.as_u16());
            match answer.success() {
                Ok(()) => {
                    say(&format!("ok     webhook {name}: {status}"));
                    return true;
                }
                Err(error) => (error, advice),
            }
        }
        Err(error) => {
            let advice = match error.step {
                HttpStep::Connect => "check host and port, and whether a firewall is between",
                HttpStep::Tls => {
                    "its certificate is not trusted or names another host (a private authority: SSL_CERT_FILE), or it \
                     speaks no TLS there: then http://"
                }
                HttpStep::Answer => {
                    "somebody listens but does not answer as an HTTP server, or not in time"
                }
            };
            (error.to_string(), advice)
        }
    };
    say(&format!(
        "FAILED webhook {name}: {error}\n       -> {advice}"
    ));
    false
}

fn advice_on(status: u16) -> &'static str {
    match status {
        300..=399 => "redirects are not followed: set the address that it leads to",
        400 | 401 | 403 => {
            "it may want another WEBHOOK_SECRET, or a user and password in the address"
        }
        404 | 405 => "check the path of the address",
        410 => "it wants no more webhooks; a daemon would stop to post there",
        429 => "it is asked too often",
        _ => "its log says why",
    }
}
