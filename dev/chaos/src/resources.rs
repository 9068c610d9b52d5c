//! Resources that a long run may leak: memory and sockets of processes, statements in MySQL, keys
//! in Redis, rows in tables.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::fault::ProcessRole;
use crate::system::{SystemUnderTest, number};

/// Tables that grow with passes or failures. (`issued_coupons` grows with issued coupons.)
const TABLES: [&str; 6] = [
    "reconcile_runs",
    "reconcile_findings",
    "alerts",
    "repairs",
    "outbox",
    "failed_claims",
];

/// The values of one resource over time.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Resource {
    /// The unit of the values.
    pub unit: &'static str,
    /// The tolerated growth, in addition to a fifth.
    pub slack: u64,
    /// Whether the resource must stay flat. Other resources are only reported.
    pub must_be_flat: bool,
    /// The values, in order of time.
    pub values: Vec<u64>,
}

impl Resource {
    /// Returns the medians of the second and the last quarter. The first quarter is warm-up.
    pub fn early_and_late(&self) -> (u64, u64) {
        let quarter = self.values.len() / 4;
        let median = |part: &[u64]| {
            let mut part = part.to_vec();
            part.sort_unstable();
            part.get(part.len() / 2).copied().unwrap_or(0)
        };
        (
            median(&self.values[quarter..quarter * 2]),
            median(&self.values[quarter * 3..]),
        )
    }

    /// Whether the last quarter exceeds the second by more than a fifth plus the slack.
    pub fn grew(&self) -> bool {
        let (early, late) = self.early_and_late();
        self.must_be_flat && late > early + early / 5 + self.slack
    }
}

/// All resources, by name.
#[derive(Debug, Default, Serialize)]
pub struct Resources(BTreeMap<String, Resource>);

impl Resources {
    /// Reads all resources once, except those of a store that is down at the moment.
    pub async fn read(&mut self, system: &SystemUnderTest) {
        // The first process of each kind is never killed, so it can show leaks.
        for role in ProcessRole::ALL {
            if let Some(pid) = system.supervisor.process(role, 0).pid() {
                if let Some(kilobytes) = resident(pid) {
                    self.note(
                        &format!("{} memory", role.name()),
                        16_384,
                        "kB",
                        true,
                        kilobytes,
                    );
                }
                if let Some(files) = open_files(pid) {
                    self.note(
                        &format!("{} open files and sockets", role.name()),
                        16,
                        "",
                        true,
                        files,
                    );
                }
            }
        }
        if let Ok(number) = status(system, "Prepared_stmt_count").await {
            self.note("mysql prepared statements", 100, "", true, number);
        }
        if let Ok(number) = status(system, "Threads_connected").await {
            self.note("mysql connections", 16, "", true, number);
        }
        for table in TABLES {
            if let Ok(rows) = number(system, &format!("SELECT COUNT(*) FROM {table}")).await {
                // The soak deletes only clean runs. The other rows are kept longer.
                self.note(
                    &format!("rows of {table}"),
                    300,
                    "",
                    table == "reconcile_runs",
                    rows,
                );
            }
        }
        if let Ok((keys, memory, clients)) = redis(system).await {
            self.note("redis keys", 200, "", true, keys);
            self.note("redis memory", 16_384, "kB", true, memory / 1024);
            self.note("redis clients", 16, "", true, clients);
        }
    }

    fn note(&mut self, name: &str, slack: u64, unit: &'static str, must_be_flat: bool, value: u64) {
        let resource = self.0.entry(name.to_owned()).or_default();
        resource.unit = unit;
        resource.slack = slack;
        resource.must_be_flat = must_be_flat;
        resource.values.push(value);
    }

    /// Names the resources that grew.
    pub fn grown(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(_, resource)| resource.grew())
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Returns the smallest number of samples of any resource that must stay flat.
    pub fn looks(&self) -> usize {
        self.0
            .values()
            .filter(|resource| resource.must_be_flat)
            .map(|resource| resource.values.len())
            .min()
            .unwrap_or(0)
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<38} {:>10} {:>10} {:>10}",
            "", "2nd quarter", "last", "most"
        )?;
        for (name, resource) in &self.0 {
            let (early, late) = resource.early_and_late();
            let most = resource.values.iter().max().copied().unwrap_or(0);
            let word = match (resource.grew(), resource.must_be_flat) {
                (true, _) => "GREW",
                (false, true) => "flat",
                (false, false) => "with faults",
            };
            writeln!(
                out,
                "{name:<38} {early:>10} {late:>10} {most:>10} {:<3} {word}",
                resource.unit
            )?;
        }
        Ok(())
    }
}

/// Reads the resident memory of a process in kB.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn open_files(pid: u32) -> Option<u64> {
    u64::try_from(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count()).ok()
}

async fn status(system: &SystemUnderTest, name: &str) -> Result<u64> {
    let rows = system
        .world
        .sql
        .rows(&format!("SHOW GLOBAL STATUS LIKE '{name}'"))
        .await?;
    Ok(rows
        .first()
        .and_then(|row| row.get(1))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0))
}

/// Reads the number of keys, the memory in bytes and the number of clients.
async fn redis(system: &SystemUnderTest) -> Result<(u64, u64, u64)> {
    let redis = system.redis();
    let keys: u64 = redis.try_command(&["DBSIZE"]).await?;
    let info: String = redis.try_command(&["INFO"]).await?;
    let field = |name: &str| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    Ok((keys, field("used_memory"), field("connected_clients")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_increase_counts_as_growth_and_fluctuation_does_not() {
        let resource = |values: Vec<u64>| Resource {
            slack: 10,
            must_be_flat: true,
            values,
            unit: "",
        };
        assert!(resource((0..100).map(|n| 1_000 + n * 10).collect()).grew());
        assert!(!resource((0..100).map(|n| 1_000 + n % 7).collect()).grew());
        assert!(
            !resource((0..100).map(|n| if n < 25 { n } else { 25 }).collect()).grew(),
            "warming up"
        );
        assert!(
            !Resource {
                must_be_flat: false,
                ..resource((0..100).map(|n| n * 100).collect())
            }
            .grew()
        );
    }
}
