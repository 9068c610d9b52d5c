//! The client of the API. Error messages say what to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, LINK};
use axum::http::request::{Builder, Request};
use axum::http::{HeaderMap, Method};
use clap::Args;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::client::{FetchError, HttpClient};
use firstcome_shared::tls::Store;
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
    /// Print the list of coupons as the API's JSON; all else is always printed so
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// The API refused the request. After any other error, the request was not sent, or the API could
/// not be reached or was unavailable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) String);

pub(super) struct Client<'a> {
    api: HttpClient,
    args: &'a ApiArgs,
}

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(30);

impl<'a> Client<'a> {
    pub(super) fn new(args: &'a ApiArgs) -> anyhow::Result<Self> {
        let api = HttpClient::new(Store::Api, &args.api_url, ssl_cert_file());
        let api = api.map_err(anyhow::Error::msg)?;
        Ok(Self { api, args })
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let mut request = Request::builder().method(method).uri(self.api.url(path));
        if let Some(token) = &self.args.ops_token {
            // During a rotation, the setting contains two tokens.
            let token = token.expose_secret().split(',').next();
            let token = format!("Bearer {}", token.unwrap_or_default());
            request = request.header(AUTHORIZATION, token);
        }
        match &self.args.operator {
            Some(name) => request.header("x-operator", name.as_bytes()),
            None => request,
        }
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::GET, path);
        self.send(request, Bytes::new()).await
    }

    pub(super) async fn send(
        &self,
        request: Builder,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Value> {
        let (_, answer) = self.exchange(request, body.into()).await?;
        Ok(answer)
    }

    /// Reads a list to its last page.
    pub(super) async fn list(&self, first: &str) -> anyhow::Result<Vec<Value>> {
        let mut next = Some(first.to_owned());
        let mut all = Vec::new();
        while let Some(path) = next {
            let request = self.request(Method::GET, &path);
            let (headers, page) = self.exchange(request, Bytes::new()).await?;
            let link = headers.get(LINK).and_then(|link| link.to_str().ok());
            let link = link.and_then(|link| link.strip_prefix('<')?.split_once('>'));
            next = link.map(|(path, _)| path.to_owned());
            all.extend(page.as_array().into_iter().flatten().cloned());
        }
        Ok(all)
    }

    async fn exchange(&self, request: Builder, body: Bytes) -> anyhow::Result<(HeaderMap, Value)> {
        let what = "OPS_TOKEN, --operator or an argument does not fit into a request";
        let request = request.body(body).context(what)?;
        let exchange = async {
            let (head, body) = self.api.send(request).await?.into_parts();
            let body = body.collect().await.map_err(FetchError::away)?;
            Ok::<_, FetchError>((head, body.to_bytes()))
        };
        let base = self.args.api_url.trim_end_matches('/');
        let (head, text) = match timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(FetchError::Refused(why))) => {
                bail!("the API at {base} cannot be trusted: {why}")
            }
            _ => bail!("the API at {base} does not answer: is it running, and is API_URL right?"),
        };
        let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
        let detail = answer["detail"].as_str().unwrap_or_default().to_owned();
        match head.status {
            status if status.is_success() => Ok((head.headers, answer)),
            status if detail.is_empty() => {
                bail!("no API of ours answered ({status}): is API_URL right?")
            }
            status if status == 401 => {
                bail!(Refused(format!(
                    "{detail}: set OPS_TOKEN as the API has it"
                )))
            }
            status if status.is_client_error() => bail!(Refused(detail)),
            _ => bail!(detail),
        }
    }
}
