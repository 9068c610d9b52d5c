//! OpenTelemetry's own variables. The SDK's specification defines them, so they are not settings of
//! Firstcome. The SDK reads the others (`OTEL_RESOURCE_ATTRIBUTES`, `OTEL_BSP_…`) itself.

use anyhow::{Context as _, anyhow};
use axum::http::Uri;
use clap::ValueEnum as _;

use super::exporter::{TraceExport, start};
use super::sampling::SamplerName;

/// Default share of traced requests among those without a `traceparent`.
const RATIO: f64 = 0.01;

/// Exports spans if `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector; `process` is the name of the
/// service unless `OTEL_SERVICE_NAME` is set.
pub fn start_as(process: &str) -> anyhow::Result<()> {
    match read(process, |name| std::env::var(name).ok())? {
        Some(export) => start(&export),
        None => Ok(()),
    }
}

fn read(
    process: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<TraceExport>> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let Some(endpoint) = set("OTEL_EXPORTER_OTLP_ENDPOINT") else {
        return Ok(None);
    };
    let sampler = set("OTEL_TRACES_SAMPLER").map_or(Ok(SamplerName::default()), |name| {
        SamplerName::from_str(&name, false)
            .map_err(|_| anyhow!("OTEL_TRACES_SAMPLER={name} is not a sampler of OpenTelemetry"))
    })?;
    let ratio = set("OTEL_TRACES_SAMPLER_ARG").map_or(Ok(RATIO), |text| ratio(&text))?;
    Ok(Some(TraceExport {
        endpoint: collector(&endpoint).context("OTEL_EXPORTER_OTLP_ENDPOINT")?,
        service: set("OTEL_SERVICE_NAME").unwrap_or_else(|| process.to_owned()),
        sampler,
        ratio,
    }))
}

fn collector(text: &str) -> anyhow::Result<String> {
    // Refuse user and password, because they would appear in logs.
    let is_plain = |uri: &Uri| {
        uri.authority()
            .is_some_and(|authority| !authority.as_str().contains('@'))
    };
    let is_one =
        |uri: &Uri| uri.scheme_str() == Some("http") && is_plain(uri) && uri.query().is_none();
    if text.parse::<Uri>().is_ok_and(|uri| is_one(&uri)) {
        Ok(text.to_owned())
    } else {
        Err(anyhow!(
            "it must look like http://host:4318; a collector that speaks TLS needs one next to this process"
        ))
    }
}

fn ratio(text: &str) -> anyhow::Result<f64> {
    let ratio: Option<f64> = text.parse().ok();
    ratio
        .filter(|ratio| (0.0..=1.0).contains(ratio))
        .context("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<TraceExport>, String> {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        read("firstcome-api", value).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn nothing_is_exported_without_a_collector() {
        assert!(of(&[]).unwrap().is_none());
        assert!(
            of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")])
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn defaults_are_the_process_name_and_one_percent() {
        let export = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")]);
        let export = export.unwrap().unwrap();
        assert_eq!(export.service, "firstcome-api");
        assert_eq!(export.sampler, SamplerName::ParentBasedTraceIdRatio);
        assert!((export.ratio - RATIO).abs() < f64::EPSILON);
    }

    #[test]
    fn invalid_value_is_refused_with_the_variable_name() {
        let endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
        for bad in [
            "collector:4318",
            "https://collector:4318",
            "grpc://x",
            "http://x?y=z",
            "http://",
            "http://a:b@x",
        ] {
            let error = of(&[(endpoint, bad)]).unwrap_err();
            assert!(error.contains("http://host:4318"), "{bad}: {error}");
        }
        let good = (endpoint, "http://gateway/otlp");
        for (variable, bad) in [
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ] {
            let error = of(&[good, (variable, bad)]).unwrap_err();
            assert!(error.contains(variable), "{bad}: {error}");
        }
    }
}
