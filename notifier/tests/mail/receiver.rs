//! A webhook receiver with canned replies that verifies signatures independently.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use firstcome_stack::eventually;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::desk::SOON;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const OTHER: &str = "whsec_c2VjcmV0IG9mIHRoaXJ0eS10d28gYnl0ZXMsIG5ldyE=";

/// The reply to requests.
#[derive(Debug, Clone)]
pub(crate) enum CannedReply {
    Status(u16),
    /// Never replies.
    Silent,
    Redirect(String),
    /// Replies with 404 and the path, as many servers do.
    Echo,
    /// Replies with a status and a body that never ends.
    Endless(u16),
}

#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {:?}", self.headers))
            .to_str()
            .unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Returns the type of the event, and the status in its data.
    pub(crate) fn what(&self) -> String {
        let json = self.json();
        let words = [&json["type"], &json["data"]["status"]].map(Value::as_str);
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Fails unless decision 0017 has this type of event with exactly these fields.
    pub(crate) fn assert_documented(&self) {
        let event = self.json();
        let row = format!("| `{}` | ", event["type"].as_str().unwrap());
        let document = include_str!("../../../docs/decisions/0017-webhooks.md");
        let documented = document
            .lines()
            .find_map(|line| line.strip_prefix(&row)?.rsplit(" | ").next())
            .expect("documented");
        let documented: Vec<&str> = documented.split('`').skip(1).step_by(2).collect();
        let sent: Vec<&String> = event["data"].as_object().unwrap().keys().collect();
        assert_eq!(sent, documented, "{event}");
    }

    /// Whether the event has a signature made with this secret.
    pub(crate) fn is_signed_by(&self, secret: &str) -> bool {
        let key = STANDARD
            .decode(secret.strip_prefix("whsec_").unwrap())
            .unwrap();
        let signed = format!(
            "{}.{}.{}",
            self.id(),
            self.header("webhook-timestamp"),
            self.body
        );
        let expected = format!("v1,{}", STANDARD.encode(hmac(&key, signed.as_bytes())));
        self.header("webhook-signature")
            .split(' ')
            .any(|signature| signature == expected)
    }
}

/// Computes an HMAC (RFC 2104) with SHA-256 alone, independently of the implementation under test.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

#[derive(Debug)]
struct Desired {
    reply: Mutex<CannedReply>,
    received: Mutex<Vec<Received>>,
}

/// Listens on a free port as long as the test's runtime lives.
#[derive(Debug)]
pub(crate) struct Receiver {
    base: String,
    state: Arc<Desired>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Desired {
            reply: Mutex::new(CannedReply::Status(204)),
            received: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, state }
    }

    /// Returns the receiver's address, which contains a secret.
    pub(crate) fn url(&self) -> String {
        format!("{}/hook?token=hunter2", self.base)
    }

    pub(crate) fn set(&self, reply: CannedReply) {
        *self.state.reply.lock().unwrap() = reply;
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    pub(crate) fn whats(&self) -> Vec<String> {
        self.received().iter().map(Received::what).collect()
    }

    /// Waits until this number of requests has arrived.
    pub(crate) async fn until_there_are(&self, requests: usize) {
        eventually(&format!("{requests} requests come"), SOON, async || {
            self.received().len() >= requests
        })
        .await;
    }
}

async fn answer(State(state): State<Arc<Desired>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1_000_000).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let path = head.uri.to_string();
    state.received.lock().unwrap().push(Received {
        path: head.uri.to_string(),
        headers: head.headers,
        body,
    });
    let reply = state.reply.lock().unwrap().clone();
    let status = |status| StatusCode::from_u16(status).unwrap();
    match reply {
        CannedReply::Status(code) => (status(code), "why it is so").into_response(),
        CannedReply::Echo => (StatusCode::NOT_FOUND, format!("Cannot POST {path}")).into_response(),
        CannedReply::Silent => std::future::pending().await,
        CannedReply::Redirect(to) => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
        }
        CannedReply::Endless(code) => {
            let beginning = stream::once(async { Ok::<_, std::io::Error>("no end") });
            (
                status(code),
                Body::from_stream(beginning.chain(stream::pending())),
            )
                .into_response()
        }
    }
}
