//! Which traces a process exports.

use axum::http::Uri;
use clap::Args;

use crate::trace::{self, SamplerName, TraceExport};

/// Which traces a process exports, by OpenTelemetry's names.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// The collector that takes OTLP over HTTP, as `http://host:4318`; not set: nothing is exported
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true, value_name = "URL", value_parser = endpoint)]
    otel_exporter_otlp_endpoint: Option<String>,
    /// Name of this process in traces; not set: firstcome-api, firstcome-consumer or
    /// firstcome-reconciler
    #[arg(long, env = "OTEL_SERVICE_NAME", global = true, value_name = "NAME")]
    otel_service_name: Option<String>,
    /// Which traces are exported
    #[arg(
        long,
        env = "OTEL_TRACES_SAMPLER",
        global = true,
        value_enum,
        default_value_t
    )]
    otel_traces_sampler: SamplerName,
    /// The ratio of the sampler, 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", global = true, default_value_t = 0.01, value_name = "RATIO", value_parser = ratio)]
    otel_traces_sampler_arg: f64,
}

impl TraceArgs {
    /// Exports from now on, where an endpoint is set; `process` is the name unless another one is.
    pub fn start(&self, process: &str) -> anyhow::Result<()> {
        let Some(endpoint) = self
            .otel_exporter_otlp_endpoint
            .clone()
            .filter(|url| !url.is_empty())
        else {
            return Ok(());
        };
        let named = self
            .otel_service_name
            .clone()
            .filter(|name| !name.is_empty());
        trace::start(&TraceExport {
            endpoint,
            service: named.unwrap_or_else(|| process.to_owned()),
            sampler: self.otel_traces_sampler,
            ratio: self.otel_traces_sampler_arg,
        })
    }
}

/// Empty counts as not set.
fn endpoint(text: &str) -> Result<String, String> {
    let wanted = "it must look like http://host:4318; a collector that speaks TLS needs one beside this process";
    // What stands before an @ would be a password, and in a log.
    let is_plain = |uri: &Uri| {
        uri.authority()
            .is_some_and(|authority| !authority.as_str().contains('@'))
    };
    let is_one =
        |uri: &Uri| uri.scheme_str() == Some("http") && is_plain(uri) && uri.query().is_none();
    match text.parse::<Uri>() {
        _ if text.is_empty() => Ok(String::new()),
        Ok(uri) if is_one(&uri) => Ok(text.to_owned()),
        _ => Err(wanted.to_owned()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio: Option<f64> = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .ok_or_else(|| "write a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_with_what_is_wanted() {
        for good in [
            "",
            "http://127.0.0.1:4318",
            "http://collector:4318/",
            "http://gateway/otlp",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "collector:4318",
            "https://collector:4318",
            "grpc://x",
            "http://x?y=z",
            "http://",
            "http://a:b@x",
        ] {
            assert!(
                endpoint(bad).unwrap_err().contains("http://host:4318"),
                "{bad}"
            );
        }
        assert_eq!(ratio("0.01"), Ok(0.01));
        for bad in ["-1", "1.1", "NaN", "x", ""] {
            assert!(ratio(bad).is_err(), "{bad}");
        }
    }
}
