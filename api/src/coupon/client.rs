//! The client of the API. Error messages say what to do.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LINK};
use axum::http::request::{Builder, Request};
use axum::http::{HeaderMap, Method};
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
    api_url: String,
    /// Token of the operators; of two separated by a comma, the first is sent
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true, global = true)]
    ops_token: Option<SecretString>,
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

pub(super) struct Client<'a> {
    api: CouponApiClient,
    args: &'a ApiArgs,
}

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(30);

impl<'a> Client<'a> {
    pub(super) fn new(args: &'a ApiArgs) -> Result<Self, CommandFailure> {
        let api = CouponApiClient::new(&args.api_url, ssl_cert_file());
        let api = api.map_err(CommandFailure::NotAsked)?;
        Ok(Self { api, args })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.args.ops_token {
            // During a rotation, the setting contains two tokens.
            let token = token.expose_secret().split(',').next().unwrap_or_default();
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        match &self.args.operator {
            Some(name) => request.header("x-operator", name.as_bytes()),
            None => request,
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CommandFailure> {
        self.send(self.request(Method::GET, path), Bytes::new())
            .await
    }

    pub(super) async fn send_json(
        &self,
        request: Builder,
        body: &Value,
    ) -> Result<Value, CommandFailure> {
        let request = request.header(CONTENT_TYPE, "application/json");
        self.send(request, body.to_string()).await
    }

    pub(super) async fn send(
        &self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> Result<Value, CommandFailure> {
        self.exchange(request, body.into())
            .await
            .map(|(_, answer)| answer)
    }

    /// Reads a list to its last page.
    pub(super) async fn pages(&self, first: String) -> Result<Vec<Value>, CommandFailure> {
        let mut next = Some(first);
        let mut pages = Vec::new();
        while let Some(path) = next {
            let request = self.request(Method::GET, &path);
            let (headers, page) = self.exchange(request, Bytes::new()).await?;
            let link = headers.get(LINK).and_then(|link| link.to_str().ok());
            let link = link.and_then(|link| link.strip_prefix('<')?.split_once('>'));
            next = link
                .map(|(path, _)| path)
                .or(page["next"].as_str())
                .map(str::to_owned);
            pages.push(page);
        }
        Ok(pages)
    }

    async fn exchange(
        &self,
        request: Builder,
        body: Bytes,
    ) -> Result<(HeaderMap, Value), CommandFailure> {
        let request = request.body(body).map_err(|error| {
            let what = "OPS_TOKEN, --operator or an argument does not fit into a request";
            CommandFailure::NotAsked(format!("{what}: {error}"))
        })?;
        let exchange = async {
            let (head, body) = self.api.send(request).await?.into_parts();
            let cut = |error: hyper::Error| FetchError::Away(error.to_string());
            Ok::<_, FetchError>((head, body.collect().await.map_err(cut)?.to_bytes()))
        };
        let why = match timeout(PATIENCE, exchange).await {
            Ok(Ok((head, text))) => {
                let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
                if head.status.is_success() {
                    return Ok((head.headers, answer));
                }
                return Err(match answer["detail"].as_str() {
                    _ if head.status == 401 => CommandFailure::Refused(
                        "the API does not take this OPS_TOKEN: set it as the API has it".to_owned(),
                    ),
                    None => CommandFailure::NotAsked(format!(
                        "no API of ours answered ({}): is API_URL right?",
                        head.status
                    )),
                    Some(detail) if head.status.is_client_error() => {
                        CommandFailure::Refused(detail.to_owned())
                    }
                    Some(detail) => CommandFailure::NotAsked(detail.to_owned()),
                });
            }
            Ok(Err(FetchError::Refused(why))) => format!("cannot be trusted: {why}"),
            _ => "does not answer: is it running, and is API_URL right?".to_owned(),
        };
        let base = self.args.api_url.trim_end_matches('/');
        Err(CommandFailure::NotAsked(format!("the API at {base} {why}")))
    }
}
