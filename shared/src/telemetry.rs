//! Logs and metrics.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// What is logged by default. `rdkafka::client` is silent: it repeats what librdkafka logs,
/// hundreds of times while no broker answers.
pub const DEFAULT_LOGS: &str = "info,tokio_cron_scheduler=warn,librdkafka=warn,rdkafka::client=off";

/// Logs to standard error as the environment says: `RUST_LOG` chooses what, `LOG_FORMAT=json` one
/// JSON object a line. A second call in one process (tests) changes nothing.
pub fn init_logs() {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { DEFAULT_LOGS } else { &filter };
    init_logs_as(filter, std::env::var("LOG_FORMAT").is_ok_and(|f| f == "json"));
}

/// Logs to standard error what `filter` lets through. A second call in one process changes nothing.
pub fn init_logs_as(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOGS));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let already_set = if json {
        builder.json().try_init().is_err()
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init().is_err()
    };
    if already_set {
        tracing::debug!("logs are set up already");
    }
}

/// Buckets, in seconds, for everything that is timed: from a script call to a pass over a million
/// claims.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Buckets for how many rows were handled at once.
const ROWS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0];

/// How often timed calls are summed up.
const UPKEEP: std::time::Duration = std::time::Duration::from_secs(1);

/// Installs the process's recorder and gives the handle that `/metrics` renders. In a process that
/// has one already (tests run several services in one), the same handle is given again.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
    static MAKING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), ROWS)?
        .install_recorder()?;
    metrics::describe_gauge!("firstcome_build_info", "Always 1; the version is a label");
    metrics::gauge!("firstcome_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    keep_small(handle.clone());
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// Every timed call is kept until somebody sums it up, and a process that nobody scrapes would grow
/// by each claim.
fn keep_small(handle: PrometheusHandle) {
    let upkeep = move || {
        loop {
            std::thread::sleep(UPKEEP);
            handle.run_upkeep();
        }
    };
    if let Err(error) = std::thread::Builder::new().name("metrics".into()).spawn(upkeep) {
        tracing::warn!(%error, "figures are summed up only when they are asked for");
    }
}
