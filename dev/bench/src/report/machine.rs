//! The machine of a run. Results from different machines or from a busy machine cannot be compared.

use std::fs;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Time at which the run started, UTC.
    pub at: String,
    /// Number of cores available to this process.
    pub cores: usize,
    /// Model name of the processor.
    pub processor: String,
    pub memory_gib: f64,
    pub kernel: String,
    /// Load average of the last minute before anything was started.
    pub load: f64,
}

impl Machine {
    pub fn describe() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| -> String {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let kb: f64 = field(&read("/proc/meminfo"), "MemTotal")
            .trim_end_matches(" kB")
            .parse()
            .unwrap_or(0.0);
        Self {
            at: chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory_gib: (kb / 1_048_576.0).round(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
        }
    }
}
