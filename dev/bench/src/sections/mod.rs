//! The measurements, one module per part.

mod ceilings;
mod designs;
mod meter;
mod neighbour;
mod pace;
mod passes;
mod uses;
mod winners;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser as _, ValueEnum as _};
use firstcome_harness::{Service, System};
use firstcome_load::ended;
use firstcome_load::installation::Installation;
use firstcome_load::terminal::step;
use firstcome_stack::{Stack, StackOptions};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::cli::{BenchSize, Cli, Part};
use crate::designs::{Design, prepare};
use crate::quiet::settle;
use crate::report::{BenchReport, Machine, Measurement};

/// Time limit of a part.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// The servers and builds that are measured.
struct Bench {
    servers: Arc<Stack>,
    /// Starts the other designs, which read no settings.
    designs: System,
    size: BenchSize,
    /// The programs of another build.
    other_build: Option<PathBuf>,
}

impl Bench {
    /// Creates a new installation on these servers.
    async fn install(&self, name: &str) -> Result<Installation> {
        Installation::named(&self.servers, name, None).await
    }

    /// Starts a design with empty tables.
    async fn design(&self, design: Design, quantity: u32) -> Result<Service> {
        let mysql = &self.servers.mysql;
        prepare(mysql, design, quantity).await?;
        let word = design.word();
        let quantity = quantity.to_string();
        let name = format!("bench-{word}-{}", chrono::Utc::now().timestamp_micros());
        let database = mysql.database_url("bench");
        let redis = self.servers.redis.url();
        let brokers = self.servers.kafka.bootstrap();
        let mut args = vec![word.as_str()];
        args.extend(["--database", &database, "--redis", &redis]);
        args.extend(["--brokers", &brokers, "--name", &name]);
        args.extend(["--quantity", &quantity]);
        let mut command = self.designs.command("firstcome-baselines", &args, &[])?;
        Service::ready(self.designs.launch(&word, &mut command)?, "").await
    }

    async fn measure(&self, part: Part, build: Option<&Path>) -> Result<Vec<Measurement>> {
        match part {
            Part::Designs => designs::measure(self).await,
            Part::Ceilings => ceilings::measure(self).await,
            Part::Winners => winners::measure(self).await,
            Part::Pace => pace::measure(self).await,
            Part::Passes => passes::measure(self, build).await,
            Part::Uses => uses::measure(self).await,
        }
    }
}

/// Runs the command line. It is not `async`, because every program that awaits an async body would
/// compile it again.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = Runtime::new().map_err(anyhow::Error::from);
    let done = runtime.and_then(|runtime| runtime.block_on(run(&cli)));
    ended("firstcome-bench", done.map(|()| ExitCode::SUCCESS))
}

/// Measures the parts that the command line selects, each on freshly started servers, prints the
/// results and writes the report.
///
/// # Errors
///
/// Fails at once if the servers cannot be started. If a part cannot be measured, fails at the end,
/// after the other parts were measured and written. A missed target is not an error.
async fn run(cli: &Cli) -> Result<()> {
    let mut report = BenchReport {
        machine: Machine::describe(),
        size: cli.size(),
        measurements: Vec::new(),
        took: Vec::new(),
        failed: Vec::new(),
    };
    let parts = match cli.part {
        Some(part) => &[part][..],
        None => Part::value_variants(),
    };
    for part in parts.iter().copied() {
        try_part(part, None, cli, &mut report).await?;
        if part == Part::Passes && cli.against.is_some() {
            try_part(part, cli.against.as_deref(), cli, &mut report).await?;
        }
    }
    report.print();
    step(format!(
        "the report is in {}",
        cli.out.join("report.json").display()
    ));
    let failed = report.failed.len();
    ensure!(failed == 0, "{failed} parts could not be measured");
    Ok(())
}

/// Measures a part and writes the report so far. A failure is recorded in the report.
async fn try_part(
    part: Part,
    build: Option<&Path>,
    cli: &Cli,
    report: &mut BenchReport,
) -> Result<()> {
    step("starting Redis, MySQL and Kafka");
    let bench = Bench {
        servers: Arc::new(Stack::start(StackOptions::default()).await?),
        designs: System::new(None, None, System::named("designs"))?,
        size: cli.size(),
        other_build: cli.against.clone(),
    };
    settle().await?;
    let name = format!("{part:?}").to_lowercase();
    step(format!("measuring {name}"));
    let begun = Instant::now();
    let measured = timeout(LIMIT, bench.measure(part, build)).await;
    let took = begun.elapsed().as_secs_f64();
    report.took.push((name.clone(), took));
    match measured.context("the part took too long").flatten() {
        Ok(measured) if build.is_some() => {
            let measured = measured.into_iter().map(Measurement::of_other_build);
            report.measurements.extend(measured);
        }
        Ok(measured) => report.measurements.extend(measured),
        Err(error) => {
            step(format!("{name} FAILED: {error:#}"));
            report.failed.push((name, format!("{error:#}")));
        }
    }
    report.write(&cli.out)
}
