//! Settings of logging.

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::telemetry::{self, DEFAULT_LOGS};

/// Settings of logging.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Log filter: a level, or `target=level`, several separated by commas
    #[arg(long, env = "RUST_LOG", global = true, default_value = DEFAULT_LOGS, value_parser = filter)]
    rust_log: String,
}

impl LogArgs {
    /// Starts logging to standard error.
    pub fn init(&self) {
        telemetry::init_logs(&self.rust_log);
    }
}

fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        _ if text.trim().is_empty() => Ok(DEFAULT_LOGS.to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write a level (error, warn, info, debug, trace) or target=level"
        )),
    }
}
