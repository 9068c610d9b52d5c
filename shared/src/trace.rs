//! Traces: one span for each traced request of the API, recorded with OpenTelemetry's SDK
//! (docs/decisions/0035-settings.md).
//!
//! Without a collector, no request has a trace. Spans are recorded only for sampled traces.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Bytes;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HeaderExtractor, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use tokio::runtime::Handle;

use crate::config::ssl_cert_file;
use crate::http::client::HttpClient;
use crate::http::request_id;
use crate::tls::TlsServer;

/// The header of requests and responses.
const TRACEPARENT: &str = "traceparent";

/// Default share of traced requests among those without a `traceparent`. OpenTelemetry's default is
/// to trace all, which would export a span for each claim of a rush.
const RATIO: f64 = 0.01;

/// Maximum duration of one export.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// Maximum wait for unsent spans when the process ends.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// The process's exporter. As for metrics, there is one per process.
static EXPORT: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// Exports spans if OpenTelemetry's variables name a collector. The SDK reads the variables;
/// `process` is the name of the service unless `OTEL_SERVICE_NAME` is set. Must be called in a
/// runtime, which then sends the spans. Further calls in a process (tests) have no effect.
pub fn start_as(process: &'static str) -> anyhow::Result<()> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let address = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let Some(address) = address.or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")) else {
        return Ok(());
    };
    let collector = HttpClient::new(TlsServer::Collector, &address, ssl_cert_file())
        .map_err(|why| anyhow!(why))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(OtlpSender {
            collector,
            runtime: Handle::current(),
        })
        .with_protocol(Protocol::HttpBinary)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT can't be used")?;
    let name = set("OTEL_SERVICE_NAME").unwrap_or_else(|| process.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(name);
    let mut provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.with_attribute(version).build());
    if set("OTEL_TRACES_SAMPLER").is_none() {
        let ratio = Sampler::TraceIdRatioBased(RATIO);
        provider = provider.with_sampler(Sampler::ParentBased(Box::new(ratio)));
    }
    let provider = provider.build();
    let tracer = provider.tracer("firstcome");
    if EXPORT.set((provider, tracer)).is_ok() {
        tracing::info!(to = address, "exporting traces");
    }
    Ok(())
}

/// Sends the remaining spans. Blocks, and requires the runtime of `start_as` to be running.
pub fn stop() {
    if let Some((provider, _)) = EXPORT.get()
        && let Err(error) = provider.shutdown_with_timeout(LAST_EXPORT)
    {
        tracing::warn!(%error, "cannot export the last spans");
    }
}

/// Sends spans in the runtime while the exporter's thread waits.
#[derive(Debug)]
struct OtlpSender {
    collector: HttpClient,
    runtime: Handle,
}

#[async_trait]
impl opentelemetry_http::HttpClient for OtlpSender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let collector = self.collector.clone();
        // The exporter's thread has no runtime, which the timer needs.
        let sent = self.runtime.spawn(async move {
            Ok(tokio::time::timeout(EXPORT_LIMIT, collector.exchange(request)).await??)
        });
        sent.await?
    }
}

/// The method of a request, and the pattern of its path.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    pub method: &'static str,
    pub path: &'a str,
}

/// A request's part in a trace: continued from its header or started by the sampler, and returned
/// in the response's header. Most requests have none.
pub struct RequestTrace(Option<Box<Span>>);

impl RequestTrace {
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let Some((_, tracer)) = EXPORT.get() else {
            return Self(None);
        };
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let builder = tracer.span_builder("request").with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &parent);
        let is_traced = parent.has_active_span() || span.is_recording();
        Self(is_traced.then(|| Box::new(span)))
    }

    /// Ends the request's span, and sets the `traceparent` header of the response. `route` contains
    /// the pattern of the path, not the path.
    pub fn end(self, route: Route<'_>, status: StatusCode, headers: &mut HeaderMap) {
        let Some(mut span) = self.0 else { return };
        let context = span.span_context();
        let trace_id = context.trace_id();
        let span_id = context.span_id();
        let flags = context.trace_flags().to_u8();
        if let Ok(value) = HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{flags:02x}")) {
            headers.insert(TRACEPARENT, value);
        }
        let Route { method, path } = route;
        span.update_name(format!("{method} {path}"));
        let mut set = |key, value: Value| span.set_attribute(KeyValue::new(key, value));
        // The names follow OpenTelemetry's semantic conventions.
        set("http.request.method", method.into());
        set("http.route", path.to_owned().into());
        set("url.scheme", "http".into());
        let code = i64::from(status.as_u16());
        set("http.response.status_code", code.into());
        if let Some(id) = request_id::current() {
            set("firstcome.request_id", id.as_str().to_owned().into());
        }
        if status.is_server_error() {
            set("error.type", status.as_str().to_owned().into());
            span.set_status(Status::error(""));
        }
        span.end();
    }
}
