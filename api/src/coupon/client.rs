//! The client of the API. Error messages say what to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::Bytes;
use axum::http::Request;
use axum::http::header::{AUTHORIZATION, IF_MATCH};
use axum::http::request::Builder;
use clap::Args;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::client::HttpClient;
use firstcome_shared::tls::TlsServer;
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
    operator: Option<String>,
}

/// The API refused the request, or the command refused to send it. Any other error means that the
/// settings are wrong, that the API could not be reached, or that it failed.
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
        let api = HttpClient::new(TlsServer::Api, &args.api_url, ssl_cert_file())
            .map_err(anyhow::Error::msg)?;
        Ok(Self { api, args })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = Request::get(self.api.url(path));
        self.send(request, String::new()).await
    }

    /// Changes a coupon, if it has the revision `only` or if `only` is `None`.
    pub(super) async fn change(
        &self,
        coupon: i64,
        only: Option<&Value>,
        change: &Value,
    ) -> anyhow::Result<Value> {
        let mut request = Request::patch(self.api.url(&format!("/v1/coupons/{coupon}")));
        if let Some(revision) = only {
            request = request.header(IF_MATCH, format!("\"{revision}\""));
        }
        self.send(request, change.to_string()).await
    }

    async fn send(&self, mut request: Builder, body: String) -> anyhow::Result<Value> {
        if let Some(token) = &self.args.ops_token {
            // During a rotation, the setting contains two tokens.
            let token = token.expose_secret().split(',').next();
            let token = format!("Bearer {}", token.unwrap_or_default());
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(name) = &self.args.operator {
            request = request.header("x-operator", name.as_bytes());
        }
        let unfit = "OPS_TOKEN or --operator does not fit into a request";
        let request = request.body(Bytes::from(body)).context(unfit)?;
        let exchange = async {
            let (head, body) = self.api.send(request).await?.into_parts();
            anyhow::Ok((head.status, body.collect().await?.to_bytes()))
        };
        let away = || {
            let base = self.args.api_url.trim_end_matches('/');
            format!("the API at {base} does not answer: is it running, and is API_URL right?")
        };
        let answer = timeout(PATIENCE, exchange).await.with_context(away)?;
        let (status, body) = answer.with_context(away)?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        match answer["detail"].as_str() {
            _ if status.is_success() => Ok(answer),
            None => bail!("no API of ours answered ({status}): is API_URL right?"),
            Some(why) if status == 401 => {
                bail!(Refused(format!("{why}: set OPS_TOKEN as the API has it")))
            }
            Some(why) if status.is_client_error() => bail!(Refused(why.to_owned())),
            Some(why) => bail!("{why}"),
        }
    }
}
