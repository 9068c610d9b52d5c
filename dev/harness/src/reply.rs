//! A raw response of a service.

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct HttpReply {
    pub status: u16,
    /// `Content-Type`. Empty if absent.
    pub content_type: String,
    pub headers: HeaderMap,
    /// The body as JSON. `null` if it is not JSON.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl HttpReply {
    pub fn retry_after(&self) -> Option<u32> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }

    pub fn location(&self) -> Option<&str> {
        self.headers.get(LOCATION)?.to_str().ok()
    }
}
