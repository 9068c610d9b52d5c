//! Process statistics from `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc`; 100 on every Linux that Rust's standard library supports.
const TICKS: f64 = 100.0;

/// Returns the CPU seconds of a process and all its threads so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything, including spaces.
    let after = stat.rsplit_once(')').context("no name in stat")?.1;
    let ticks = after.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Returns the peak memory of a process in kB.
pub fn peak_memory_kb(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.context("no peak in status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
