//! The measurements, one module per part.

mod backlog;
pub mod ceilings;
pub mod comparison;
mod figures;
pub mod passes;
pub mod winners;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firstcome_load::launch::Servers;
use firstcome_load::terminal::step;
use firstcome_stack::StackOptions;
use tokio::time::timeout;

use crate::Bench;
use crate::baselines::Design;
use crate::baselines::comparison as designs;
use crate::cli::{BenchOptions, BenchSize, Part};
use crate::quiet::settle;
use crate::report::{BenchReport, print};

/// Time limit of a step.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Returns the steps of a part. If one fails, the others still run.
fn steps(part: Part) -> Vec<BenchStep> {
    if part != Part::Designs {
        return vec![BenchStep::Part(part)];
    }
    let mut steps: Vec<BenchStep> = Design::ALL.map(BenchStep::Design).into();
    // This step comes directly before Firstcome, which comes last, because the machine may behave
    // differently an hour later.
    steps.insert(steps.len().saturating_sub(1), BenchStep::Nothing);
    steps
}

#[derive(Debug, Clone, Copy)]
enum BenchStep {
    Nothing,
    Design(Design),
    Part(Part),
}

impl BenchStep {
    fn name(self) -> String {
        match self {
            Self::Nothing => "the do-nothing route".into(),
            Self::Design(design) => format!("design {}", design.word()),
            Self::Part(part) => format!("{part:?}").to_lowercase(),
        }
    }

    async fn measure(
        self,
        bench: &Bench,
        size: &BenchSize,
        report: &mut BenchReport,
    ) -> Result<()> {
        let measurements = match self {
            Self::Nothing => {
                report.comparison().nothing =
                    Some(designs::nothing(&bench.servers, &size.rush()).await?);
                return Ok(());
            }
            Self::Design(design) => {
                let run = designs::run(&bench.servers, design, &size.rush()).await?;
                report.comparison().runs.push(run);
                return Ok(());
            }
            // These parts consist of separate steps.
            Self::Part(Part::All | Part::Designs) => return Ok(()),
            Self::Part(Part::Ceilings) => ceilings::measure(bench, size).await?,
            Self::Part(Part::Winners) => winners::measure(bench, size).await?,
            Self::Part(Part::Passes) => passes::measure(bench, size).await?,
        };
        report.measurements.extend(measurements);
        Ok(())
    }
}

/// Measures these parts on freshly started servers, prints the results and writes the report.
///
/// # Errors
///
/// Fails if something cannot be started or measured. The error is returned at the end, after
/// everything else was measured and written. A missed target is not an error.
pub async fn run(parts: &[Part], options: &BenchOptions) -> Result<()> {
    let size = options.size();
    let mut report = BenchReport::new(size.clone());
    let begun = Instant::now();
    let mut bench = None;
    for part in parts {
        for one in steps(*part) {
            let here = match bench.take() {
                Some(bench) => bench,
                None => start(options).await?,
            };
            bench = try_one(one, here, &size, &mut report).await;
        }
        if *part == Part::Designs {
            let measurements = comparison::measurements(report.comparison());
            report.measurements.extend(measurements);
        }
        // Keeps the measurements made so far, even if a later step fails.
        report.write(&options.out)?;
    }
    drop(bench);
    print(&report);
    step(format!(
        "{:.0} s; the report is in {}",
        begun.elapsed().as_secs_f64(),
        options.out.join("report.json").display()
    ));
    ensure!(
        report.failed.is_empty(),
        "{} could not be measured",
        report.failed.len()
    );
    Ok(())
}

async fn start(options: &BenchOptions) -> Result<Bench> {
    step("starting Redis, MySQL and Kafka");
    let servers = Arc::new(Servers::start(StackOptions::default(), None).await?);
    Ok(Bench {
        servers,
        other_build: options.against.clone(),
    })
}

/// Returns the servers for the next step, or `None` after a failure, which leaves them in an
/// unknown state.
async fn try_one(
    one: BenchStep,
    bench: Bench,
    size: &BenchSize,
    report: &mut BenchReport,
) -> Option<Bench> {
    let settled = settle().await;
    step(format!("measuring {}", one.name()));
    let begun = Instant::now();
    let measured = timeout(LIMIT, one.measure(&bench, size, report)).await;
    let measured = settled.and(measured.context("the step took too long").flatten());
    report
        .took
        .push((one.name(), begun.elapsed().as_secs_f64()));
    match measured {
        Ok(()) => Some(bench),
        Err(error) => {
            step(format!("{} FAILED: {error:#}", one.name()));
            report.failed.push((one.name(), format!("{error:#}")));
            None
        }
    }
}
