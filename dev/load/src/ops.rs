//! What an operator asks: few requests, each on a connection of its own.

use anyhow::{Context, Result, bail};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::client::{Call, Connection, Target};

/// A service and the token it wants.
#[derive(Debug, Clone)]
pub struct Ops {
    pub target: Target,
    /// The ops token; empty for routes that want none.
    pub token: String,
}

impl Ops {
    /// `GET`, read as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        json(self.call(Method::GET, path, Vec::new()).await?, path)
    }

    /// `POST` with a JSON body, read as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        json(self.call(Method::POST, path, serde_json::to_vec(body)?).await?, path)
    }

    /// `POST` with a JSON body, whatever the status; an answer that is not JSON is `null`.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let (status, body) = self.call(Method::POST, path, serde_json::to_vec(body)?).await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// `GET`, as text, whatever the status.
    pub async fn get_text(&self, path: &str) -> Result<(StatusCode, String)> {
        let (status, body) = self.call(Method::GET, path, Vec::new()).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn call(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Vec<u8>)> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let call = Call { method, path, headers: &headers, body };
        let (status, body) = Connection::open(&self.target).await?.send(call).await?;
        Ok((status, body.to_vec()))
    }
}

fn json((status, body): (StatusCode, Vec<u8>), path: &str) -> Result<Value> {
    if !status.is_success() {
        bail!("{path} was answered with {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| format!("{path} was answered with something that is not JSON"))
}
