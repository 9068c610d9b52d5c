//! The client of the API. Error messages say what to do.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_MATCH, LINK, RETRY_AFTER};
use axum::http::request::Builder;
use axum::http::{Method, Request, Response, StatusCode};
use clap::Args;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::api_client::CouponApiClient;
use firstcome_shared::http::fetch::FetchError;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::time::{sleep, timeout};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "API")]
pub(super) struct ApiArgs {
    /// Address of the API, as http://host:port or https://host:port. SSL_CERT_FILE names further
    /// certificate authorities
    #[arg(
        long,
        env = "API_URL",
        default_value = "http://127.0.0.1:8080",
        global = true
    )]
    pub(super) api_url: String,
    /// Token of the operators; of two separated by a comma, the first is sent
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true, global = true)]
    pub(super) ops_token: Option<SecretString>,
    /// Your name, for the record of operators' actions
    #[arg(long, value_name = "NAME", global = true)]
    pub(super) operator: Option<String>,
    /// Print the API's JSON (`winners`: a line for each)
    #[arg(long, global = true)]
    pub(super) json: bool,
}

pub(super) enum CommandFailure {
    /// The API refused the request.
    Refused(String),
    /// The request was not sent, or the API could not be reached or was unavailable.
    NotAsked(String),
    /// The reader of the output has closed the pipe.
    OutputClosed,
}

pub(super) struct Client {
    api: CouponApiClient,
    base: String,
    token: Option<SecretString>,
    operator: Option<String>,
}

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum wait for one page while the API is busy, all attempts together.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

impl Client {
    pub(super) fn new(args: &ApiArgs) -> Result<Self, CommandFailure> {
        let base = args.api_url.trim_end_matches('/').to_owned();
        // During a rotation, the setting contains two tokens.
        let first = |token: &SecretString| {
            token
                .expose_secret()
                .split(',')
                .next()
                .unwrap_or_default()
                .to_owned()
                .into()
        };
        Ok(Self {
            api: CouponApiClient::new(&base, ssl_cert_file()).map_err(CommandFailure::NotAsked)?,
            base,
            token: args.ops_token.as_ref().map(first),
            operator: args.operator.clone(),
        })
    }

    fn for_operators(&self, method: Method, path: &str) -> Result<Builder, CommandFailure> {
        let token = self.token.as_ref().ok_or_else(|| {
            CommandFailure::NotAsked(
                "this needs the operators' token: set OPS_TOKEN as the API has it".to_owned(),
            )
        })?;
        let request = request(method, path)
            .header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        Ok(self.operator.iter().fold(request, |request, name| {
            request.header("x-operator", name.as_bytes())
        }))
    }

    /// Returns the response and the path of the next page.
    pub(super) async fn get(&self, path: &str) -> Result<(Value, Option<String>), CommandFailure> {
        self.page(|| Ok(request(Method::GET, path))).await
    }

    /// Like [`Self::get`], with the operators' token.
    pub(super) async fn get_ops(
        &self,
        path: &str,
    ) -> Result<(Value, Option<String>), CommandFailure> {
        self.page(|| self.for_operators(Method::GET, path)).await
    }

    /// Retries after `Retry-After`, because the API limits the rate of pages.
    async fn page(
        &self,
        request: impl Fn() -> Result<Builder, CommandFailure>,
    ) -> Result<(Value, Option<String>), CommandFailure> {
        let mut left = LONGEST_WAIT;
        let response = loop {
            let response = self.exchange(without_body(request()?)?).await?;
            let Some(wait) = wait_asked_for(&response).filter(|wait| *wait <= left) else {
                break response;
            };
            left = left.saturating_sub(wait);
            sleep(wait).await;
        };
        let response = self.succeeded(response).await?;
        let link = response
            .headers()
            .get(LINK)
            .and_then(|link| link.to_str().ok());
        let next =
            link.and_then(|link| Some(link.strip_prefix('<')?.split_once('>')?.0.to_owned()));
        Ok((self.json(response).await?, next))
    }

    pub(super) async fn ops(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        idempotency_key: Option<&str>,
    ) -> Result<Value, CommandFailure> {
        let request = self.for_operators(method, path)?;
        let request = idempotency_key.iter().fold(request, |request, key| {
            request.header("idempotency-key", *key)
        });
        self.json(self.send(with_json(request, body)?).await?).await
    }

    /// Changes a coupon if it still has this revision.
    pub(super) async fn change_if(
        &self,
        path: &str,
        body: &Value,
        revision: Option<u64>,
    ) -> Result<Value, CommandFailure> {
        let request = self.for_operators(Method::PATCH, path)?;
        let tag = revision.map(|revision| format!("\"{revision}\""));
        let request = tag
            .iter()
            .fold(request, |request, tag| request.header(IF_MATCH, tag));
        self.json(self.send(with_json(request, body)?).await?).await
    }

    /// Passes the CSV to `write`, part by part.
    pub(super) async fn copy_csv(
        &self,
        path: &str,
        write: impl Fn(&str) -> Result<(), CommandFailure>,
    ) -> Result<(), CommandFailure> {
        let request = self
            .for_operators(Method::GET, path)?
            .header(ACCEPT, "text/csv");
        let mut response = self.send(without_body(request)?).await?;
        // Pass on only whole lines, because a part may end in the middle of a character.
        let mut rest = Vec::new();
        while let Some(part) = self.part(&mut response).await? {
            rest.extend_from_slice(&part);
            let whole = rest
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let lines: Vec<u8> = rest.drain(..whole).collect();
            write(&String::from_utf8_lossy(&lines))?;
        }
        Ok(())
    }

    async fn json(&self, response: Response<Incoming>) -> Result<Value, CommandFailure> {
        let text = self.text(response).await?;
        serde_json::from_slice(&text).map_err(|error| self.cut(&error))
    }

    async fn text(&self, mut response: Response<Incoming>) -> Result<Vec<u8>, CommandFailure> {
        let mut text = Vec::new();
        while let Some(part) = self.part(&mut response).await? {
            text.extend_from_slice(&part);
        }
        Ok(text)
    }

    /// Returns the next bytes of a response.
    async fn part(
        &self,
        response: &mut Response<Incoming>,
    ) -> Result<Option<Bytes>, CommandFailure> {
        loop {
            let frame = timeout(PATIENCE, response.body_mut().frame())
                .await
                .map_err(|error| self.cut(&error))?;
            let Some(frame) = frame else { return Ok(None) };
            // Skip a frame of trailers, which has no data.
            if let Ok(bytes) = frame.map_err(|error| self.cut(&error))?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, CommandFailure> {
        self.succeeded(self.exchange(request).await?).await
    }

    /// Sends a request, and returns the response with any status.
    async fn exchange(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, CommandFailure> {
        let why = match timeout(PATIENCE, self.api.send(request)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(FetchError::Refused(why))) => format!("cannot be trusted: {why}"),
            Ok(Err(FetchError::Away(_))) => {
                "cannot be reached: is it running, and is API_URL right?".to_owned()
            }
            Err(_) => "does not answer: is it running, and is API_URL right?".to_owned(),
        };
        Err(CommandFailure::NotAsked(format!(
            "the API at {} {why}",
            self.base
        )))
    }

    fn cut(&self, error: &dyn std::fmt::Display) -> CommandFailure {
        CommandFailure::NotAsked(format!(
            "the answer of the API at {} broke off ({error}); try again",
            self.base
        ))
    }

    async fn succeeded(
        &self,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, CommandFailure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.text(response).await.unwrap_or_default();
        let problem: Value = serde_json::from_slice(&text).unwrap_or_default();
        Err(failure(status, problem["detail"].as_str()))
    }
}

fn request(method: Method, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

fn without_body(request: Builder) -> Result<Request<Bytes>, CommandFailure> {
    request.body(Bytes::new()).map_err(unfit)
}

fn with_json(request: Builder, body: &Value) -> Result<Request<Bytes>, CommandFailure> {
    request
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string().into())
        .map_err(unfit)
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes it by value
fn unfit(error: axum::http::Error) -> CommandFailure {
    CommandFailure::NotAsked(format!(
        "OPS_TOKEN, --operator or an argument does not fit into a request: {error}"
    ))
}

/// Returns the `Retry-After` of a 503.
fn wait_asked_for<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(RETRY_AFTER)
        .filter(|_| response.status() == StatusCode::SERVICE_UNAVAILABLE)?;
    seconds
        .to_str()
        .ok()?
        .parse()
        .ok()
        .map(|seconds| Duration::from_secs(seconds).max(SHORTEST_WAIT))
}

fn failure(status: StatusCode, detail: Option<&str>) -> CommandFailure {
    match (status, detail) {
        (StatusCode::UNAUTHORIZED, _) => CommandFailure::Refused(
            "the API does not take this OPS_TOKEN: set it as the API has it".to_owned(),
        ),
        (_, None) => CommandFailure::NotAsked(format!(
            "no API of ours answered ({status}): is API_URL right?"
        )),
        (_, Some(detail)) if status.is_client_error() => CommandFailure::Refused(detail.to_owned()),
        (_, Some(detail)) => CommandFailure::NotAsked(detail.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;

    /// Requests a list that is refused `busy` times with this `Retry-After`. Returns the result and
    /// the number of requests.
    async fn asked(busy: u32, retry_after: &'static str) -> (Result<Value, CommandFailure>, u32) {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = asked.clone();
        let answer = async move || {
            if counter.fetch_add(1, Ordering::Relaxed) < busy {
                let problem = Json(json!({"detail": "too many lists"}));
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [(RETRY_AFTER, retry_after)],
                    problem,
                )
                    .into_response();
            }
            Json(json!(["a coupon"])).into_response()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            axum::serve(listener, Router::new().route("/", get(answer))).await
        });
        let args = ApiArgs {
            api_url,
            ops_token: None,
            operator: None,
            json: true,
        };
        let Ok(client) = Client::new(&args) else {
            panic!("no client")
        };
        let page = client.get("/").await.map(|(page, _)| page);
        server.abort();
        (page, asked.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn retries_a_page_while_the_api_is_busy() {
        let (page, asked) = asked(2, "0").await;
        assert!(matches!(page, Ok(page) if page == json!(["a coupon"])));
        assert_eq!(asked, 3);
    }

    #[tokio::test]
    async fn gives_up_if_the_api_asks_for_a_long_wait() {
        let (page, asked) = asked(u32::MAX, "11").await;
        assert!(matches!(page, Err(CommandFailure::NotAsked(why)) if why == "too many lists"));
        assert_eq!(asked, 1);
    }
}
