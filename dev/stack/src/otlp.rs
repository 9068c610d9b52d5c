//! An OTLP/HTTP collector that decodes requests with OpenTelemetry's own types.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::wait::eventually_some;

/// A received span. Its IDs are hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// The resource's `service.name`.
    pub service: String,
    /// The URL of the semantic conventions.
    pub schema: String,
    pub trace: String,
    pub id: String,
    /// The ID of the parent span. Empty for the root span.
    pub parent: String,
    pub name: String,
    /// The kind: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    pub attributes: BTreeMap<String, String>,
    pub failed: bool,
    pub began_ns: u64,
    pub ended_ns: u64,
}

impl ReceivedSpan {
    /// Returns the value of an attribute. Empty if absent.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// A collector that accepts spans until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    task: JoinHandle<()>,
}

impl OtlpReceiver {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Arc::new(Mutex::default());
        let into = Arc::clone(&spans);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let into = Arc::clone(&into);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &into).await {
                        eprintln!("the OTLP receiver: {error:#}");
                    }
                });
            }
        });
        Ok(Self {
            address,
            spans,
            task,
        })
    }

    /// Returns the address for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all spans received, in order of arrival.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.spans.lock().clone()
    }

    /// Waits for a span, past or future.
    ///
    /// # Panics
    ///
    /// Panics with `what` after the limit.
    pub async fn span(
        &self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&ReceivedSpan) -> bool,
    ) -> ReceivedSpan {
        eventually_some(what, limit, async || {
            let spans = self.spans();
            let name =
                |span: &ReceivedSpan| format!("{} {} {}", span.trace, span.service, span.name);
            let names = || spans.iter().map(name).collect::<Vec<_>>().join("\n");
            spans
                .iter()
                .find(|span| fits(span))
                .cloned()
                .ok_or_else(names)
        })
        .await
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the requests of one connection.
async fn serve(stream: TcpStream, into: &Mutex<Vec<ReceivedSpan>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut first = String::new();
        let mut length = None;
        if stream.read_line(&mut first).await? == 0 {
            return Ok(());
        }
        ensure!(first.starts_with("POST /v1/traces HTTP/1.1"), "{first:?}");
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.trim().parse::<usize>()?),
                "content-type" => ensure!(value.trim() == "application/x-protobuf", "{line:?}"),
                _ => {}
            }
        }
        let mut body = vec![0; length.context("no content-length")?];
        stream.read_exact(&mut body).await?;
        into.lock().extend(decode(&body)?);
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await?;
    }
}

fn decode(body: &[u8]) -> Result<Vec<ReceivedSpan>> {
    let request = ExportTraceServiceRequest::decode(body)?;
    let mut spans = Vec::new();
    for resource in request.resource_spans {
        let attributes = attributes(resource.resource.unwrap_or_default().attributes);
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        for scope in resource.scope_spans {
            spans.extend(
                scope
                    .spans
                    .into_iter()
                    .map(|span| received(&service, span, &scope.schema_url)),
            );
        }
    }
    Ok(spans)
}

fn received(service: &str, span: Span, schema: &str) -> ReceivedSpan {
    ReceivedSpan {
        service: service.to_owned(),
        schema: schema.to_owned(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        kind: span.kind,
        attributes: attributes(span.attributes),
        failed: span
            .status
            .is_some_and(|status| status.code == StatusCode::Error as i32),
        began_ns: span.start_time_unix_nano,
        ended_ns: span.end_time_unix_nano,
    }
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    all.into_iter()
        .map(|one| (one.key, text(one.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
