//! The client of the API. Error messages say what to do.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use clap::Args;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::api_client::CouponApiClient;
use firstcome_shared::http::fetch::FetchError;
use http_body_util::BodyExt as _;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

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
    /// Print lists as the API's JSON; one coupon is always printed so
    #[arg(long, global = true)]
    pub(super) json: bool,
}

pub(super) enum CommandFailure {
    /// The API refused the request.
    Refused(String),
    /// The request was not sent, or the API could not be reached or was unavailable.
    NotAsked(String),
}

pub(super) struct Client {
    api: CouponApiClient,
    base: String,
    token: Option<String>,
    operator: Option<String>,
}

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    pub(super) fn new(args: &ApiArgs) -> Result<Self, CommandFailure> {
        let base = args.api_url.trim_end_matches('/').to_owned();
        // During a rotation, the setting contains two tokens.
        let token = args.ops_token.as_ref().map(ExposeSecret::expose_secret);
        let token = token.and_then(|both| both.split(',').next());
        Ok(Self {
            api: CouponApiClient::new(&base, ssl_cert_file()).map_err(CommandFailure::NotAsked)?,
            base,
            token: token.map(|token| format!("Bearer {token}")),
            operator: args.operator.clone(),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CommandFailure> {
        self.send(Method::GET, path, &Value::Null).await
    }

    /// Reads a list to its last page.
    pub(super) async fn pages(&self, first: String) -> Result<Vec<Value>, CommandFailure> {
        let mut next = Some(first);
        let mut pages = Vec::new();
        while let Some(path) = next {
            let (headers, page) = self
                .exchange(Method::GET, &path, &Value::Null, None)
                .await?;
            let link = headers.get(LINK).and_then(|link| link.to_str().ok());
            let link = link.and_then(|link| link.strip_prefix('<')?.split_once('>'));
            let named = page["next"].as_str();
            next = link.map(|(path, _)| path).or(named).map(str::to_owned);
            pages.push(page);
        }
        Ok(pages)
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, CommandFailure> {
        self.send_with(method, path, body, None).await
    }

    /// Sends a request with a further header.
    pub(super) async fn send_with(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&str, &str)>,
    ) -> Result<Value, CommandFailure> {
        let (_, answer) = self.exchange(method, path, body, header).await?;
        Ok(answer)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&str, &str)>,
    ) -> Result<(HeaderMap, Value), CommandFailure> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(name) = &self.operator {
            request = request.header("x-operator", name.as_bytes());
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let body = if body.is_null() {
            Bytes::new()
        } else {
            request = request.header(CONTENT_TYPE, "application/json");
            body.to_string().into()
        };
        let request = request.body(body).map_err(|error| {
            CommandFailure::NotAsked(format!(
                "OPS_TOKEN, --operator or an argument does not fit into a request: {error}"
            ))
        })?;
        let exchange = async {
            let (head, body) = self.api.send(request).await?.into_parts();
            let cut = |error: hyper::Error| FetchError::Away(error.to_string());
            let text = body.collect().await.map_err(cut)?.to_bytes();
            Ok::<_, FetchError>((head, text))
        };
        let why = match timeout(PATIENCE, exchange).await {
            Ok(Ok((head, text))) => {
                let answer = serde_json::from_slice(&text).unwrap_or_default();
                return if head.status.is_success() {
                    Ok((head.headers, answer))
                } else {
                    Err(failure(head.status, &answer))
                };
            }
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
}

fn failure(status: StatusCode, problem: &Value) -> CommandFailure {
    match problem["detail"].as_str() {
        _ if status == StatusCode::UNAUTHORIZED => CommandFailure::Refused(
            "the API does not take this OPS_TOKEN: set it as the API has it".to_owned(),
        ),
        None => CommandFailure::NotAsked(format!(
            "no API of ours answered ({status}): is API_URL right?"
        )),
        Some(detail) if status.is_client_error() => CommandFailure::Refused(detail.to_owned()),
        Some(detail) => CommandFailure::NotAsked(detail.to_owned()),
    }
}
