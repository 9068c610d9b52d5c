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
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.get(at).context("stat is too short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Reads a line of `/proc/PID/status` in kB, such as `VmRSS` or `VmHWM` (the peak).
pub fn memory_kb(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_memory_and_cpu_time_of_this_process() {
        let own = std::process::id();
        assert!(memory_kb(own, "VmHWM").unwrap() >= memory_kb(own, "VmRSS").unwrap() / 2);
        assert!(cpu_seconds(own).unwrap() >= 0.0);
    }
}
