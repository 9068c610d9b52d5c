//! Exports spans by OTLP over HTTP, from a separate thread. As for metrics, there is one exporter
//! per process.

use std::fmt;
use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanProcessor as _};
use tokio::runtime::Handle;

use super::sampling::{SamplerName, Sampling};

/// Maximum wait for unsent spans when the process ends.
const LAST_EXPORT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(super) struct TraceExport {
    /// The collector's address, as `http://host:port`.
    pub(super) endpoint: String,
    pub(super) service: String,
    pub(super) sampler: SamplerName,
    pub(super) ratio: f64,
}

struct Pipeline {
    sampling: Sampling,
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

static PIPELINE: OnceLock<Pipeline> = OnceLock::new();

/// Starts exporting spans. Must be called in a runtime, which then sends the spans. Further calls
/// in a process (tests) have no effect.
pub(super) fn start(export: &TraceExport) -> anyhow::Result<()> {
    if is_on() {
        return Ok(());
    }
    let address = format!("{}/v1/traces", export.endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(OtlpSender {
            client: Client::builder(TokioExecutor::new()).build_http(),
            runtime: Handle::current(),
        })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT can't be used")?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    // OTEL_RESOURCE_ATTRIBUTES may add attributes, but not change the name of the service.
    let resource = Resource::builder()
        .with_service_name(export.service.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    processor.set_resource(&resource);
    let scope = InstrumentationScope::builder("firstcome")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(opentelemetry_semantic_conventions::SCHEMA_URL)
        .build();
    let sampling = Sampling::new(export.sampler, export.ratio);
    if PIPELINE
        .set(Pipeline {
            sampling,
            processor,
            scope,
        })
        .is_ok()
    {
        tracing::info!(to = export.endpoint, sampler = ?export.sampler, ratio = export.ratio, "exporting traces");
    }
    Ok(())
}

/// Sends the remaining spans. Blocks, and requires the runtime of `start` to be running.
pub fn stop() {
    if let Some(pipeline) = PIPELINE.get()
        && let Err(error) = pipeline.processor.shutdown_with_timeout(LAST_EXPORT)
    {
        tracing::warn!(%error, "cannot export the last spans");
    }
}

pub fn is_on() -> bool {
    PIPELINE.get().is_some()
}

/// Whether work that was not caused by a request may start a trace.
pub fn may_begin() -> bool {
    PIPELINE
        .get()
        .is_some_and(|pipeline| !pipeline.sampling.is_off)
}

pub(super) fn sampling() -> Option<&'static Sampling> {
    PIPELINE.get().map(|pipeline| &pipeline.sampling)
}

pub(super) fn scope() -> InstrumentationScope {
    PIPELINE
        .get()
        .map(|pipeline| pipeline.scope.clone())
        .unwrap_or_default()
}

pub(super) fn take(span: SpanData) {
    if let Some(pipeline) = PIPELINE.get() {
        pipeline.processor.on_end(span);
    }
}

/// Sends spans in the runtime while the exporter's thread waits.
struct OtlpSender {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl fmt::Debug for OtlpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OtlpSender")
    }
}

impl HttpClient for OtlpSender {
    fn send_bytes<'a, 'f>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        let sent = self.client.request(request.map(Full::new));
        let answered = self.runtime.spawn(async move {
            let (head, body) = sent.await?.into_parts();
            Ok::<_, HttpError>(Response::from_parts(head, body.collect().await?.to_bytes()))
        });
        Box::pin(async move { answered.await? })
    }
}
