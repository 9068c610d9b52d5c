//! Logs and metrics.

use std::fmt;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::http::{ops, request_id};

/// The log filter if `RUST_LOG` is not set.
pub const DEFAULT_LOGS: &str = "info";

/// Filter for libraries that log repeatedly. `rdkafka::client` repeats librdkafka's messages,
/// hundreds of times while no broker answers. The filter applies if `RUST_LOG` starts with `info`,
/// `debug` or `trace`. A directive in `RUST_LOG` for the same library takes precedence.
const QUIET: &str = "tokio_cron_scheduler=warn,librdkafka=warn,rdkafka::client=off";

/// Starts logging to standard error with this filter. Further calls in a process (tests) have no
/// effect.
pub fn init_logs(filter: &str) {
    let filter = log_filter(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOGS));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Otherwise it would report a failed write with `eprintln!`, which ends the program if that
        // fails too.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .map_event_format(WithRequestId);
    if logs.try_init().is_err() {
        tracing::debug!("logs are set up already");
    }
}

fn log_filter(directives: &str) -> Result<EnvFilter, ParseError> {
    let first = directives.split(',').next().unwrap_or_default().trim();
    let is_verbose = ["info", "debug", "trace"]
        .iter()
        .any(|level| first.eq_ignore_ascii_case(level));
    if is_verbose {
        EnvFilter::try_new(format!("{QUIET},{directives}"))
    } else {
        EnvFilter::try_new(directives)
    }
}

/// Adds the id of the task's current request to log lines. A span per request would cost an
/// allocation and a lock, even if nothing is logged.
struct WithRequestId<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithRequestId<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(id) = request_id::current() else {
            return self.0.format_event(context, to, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        writeln!(to, "{} request_id={id}", line.trim_end())
    }
}

/// Buckets, in seconds, for waits that users notice: from a script call to a deadline.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Buckets, in seconds, for passes and their stages, up to a pass over ten million claims.
const PASS_SECONDS: &[f64] = &[
    0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
];

/// Buckets for the number of rows or claims that are processed together.
const ROWS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];

/// Interval at which timed calls are aggregated.
const UPKEEP: std::time::Duration = std::time::Duration::from_secs(1);

/// Installs the process's metrics recorder and returns the handle that renders `/metrics`. If there
/// already is one (tests run several services in a process), returns its handle.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: parking_lot::Mutex<Option<PrometheusHandle>> = parking_lot::Mutex::new(None);
    let mut made = HANDLE.lock();
    if let Some(handle) = &*made {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Prefix("firstcome_pass_".into()), PASS_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), ROWS)?
        .set_buckets_for_metric(Matcher::Suffix("_claims".into()), ROWS)?
        .install_recorder()?;
    metrics::describe_gauge!("firstcome_build_info", "Always 1; the version is a label");
    metrics::gauge!("firstcome_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    ops::describe();
    keep_small(handle.clone());
    Ok(made.insert(handle).clone())
}

/// Aggregates timed calls regularly. Otherwise each call is stored until the next scrape, so the
/// memory of a process that is not scraped would grow with each claim.
fn keep_small(handle: PrometheusHandle) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            handle.run_upkeep();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noisy_libraries_are_silenced_unless_the_filter_names_them() {
        let shown = |directives| log_filter(directives).unwrap().to_string();
        for usual in ["info", "debug,firstcome_api=trace"] {
            assert!(shown(usual).contains("librdkafka=warn"), "{usual}");
            assert!(shown(usual).contains("rdkafka::client=off"), "{usual}");
        }
        assert_eq!(shown("off"), "off");
        assert_eq!(shown("error"), "error");
        let named = shown("info,librdkafka=debug");
        assert!(named.contains("librdkafka=debug"), "{named}");
        assert!(!named.contains("librdkafka=warn"), "{named}");
    }
}
