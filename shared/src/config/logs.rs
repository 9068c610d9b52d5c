//! What a process logs.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::http::access;
use crate::telemetry::{self, DEFAULT_LOGS};

/// What a process logs, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// What is logged: a level, or `target=level`, several by commas
    #[arg(long, env = "RUST_LOG", global = true, default_value = DEFAULT_LOGS, value_parser = filter)]
    rust_log: String,
    /// How a line is written
    #[arg(long, env = "LOG_FORMAT", global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Whether each request is logged: method, path without ids of people, status, time, address
    #[arg(long, env = "ACCESS_LOG", global = true, value_enum, default_value_t)]
    access_log: AccessLog,
}

/// Whether each request is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum AccessLog {
    #[default]
    Off,
    On,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

impl LogArgs {
    /// Logs to standard error from now on.
    pub fn init(&self) {
        telemetry::init_logs_as(&self.rust_log, self.log_format == LogFormat::Json);
        if self.access_log == AccessLog::On {
            access::log_requests();
        }
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
