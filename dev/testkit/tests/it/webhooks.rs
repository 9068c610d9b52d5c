//! A receiver of webhooks for `faults::cycles`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Accepts every request and stores its headers and body.
#[derive(Clone, Default)]
pub(crate) struct WebhookReceiver {
    posted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl WebhookReceiver {
    pub(crate) async fn start() -> (Self, String) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let all = receiver.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let all = all.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    let (head, body) = loop {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                        let text = String::from_utf8_lossy(&request);
                        if let Some((head, body)) = text.split_once("\r\n\r\n")
                            && let Ok(json) = serde_json::from_str(body)
                        {
                            break (head.to_lowercase(), json);
                        }
                    };
                    all.posted.lock().push((head, body));
                    let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        (receiver, url)
    }

    /// Returns the requests that were posted to this path.
    pub(crate) fn posted(&self, path: &str) -> Vec<(String, Value)> {
        let is_there = |(head, _): &&(String, Value)| head.starts_with(&format!("post {path} "));
        self.posted
            .lock()
            .iter()
            .filter(is_there)
            .cloned()
            .collect()
    }
}

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
