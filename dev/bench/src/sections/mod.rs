//! What is measured, a module a part.

pub mod ceilings;
pub mod claims;
pub mod consumer;
pub mod designs;
pub mod exact;
pub mod passes;
pub mod start;

use anyhow::{Context as _, Result};
use firstcome_rush::live::step;

use crate::cli::{Options, Size};
use crate::report::{Figure, Machine, Report, print};
use crate::world::World;

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// [`designs`].
    Designs,
    /// [`ceilings`].
    Ceilings,
    /// [`claims`] and [`exact`].
    Claims,
    /// [`consumer`].
    Consumer,
    /// [`passes`].
    Passes,
    /// [`start`].
    Start,
}

impl Part {
    /// All, in order.
    pub const ALL: [Self; 6] = [Self::Designs, Self::Ceilings, Self::Claims, Self::Consumer, Self::Passes, Self::Start];
}

/// Measures these parts on servers of their own, prints what came out and writes the report.
///
/// # Errors
/// When something could not be started or measured. A target that is not met is no error.
pub async fn run(parts: &[Part], options: &Options) -> Result<()> {
    let (machine, size) = (Machine::look(), options.size());
    let mut report = Report { machine, size: size.clone(), designs: Vec::new(), figures: Vec::new() };
    let world = World::start().await?;
    for part in parts {
        step(format!("measuring: {part:?}"));
        let measured = measure(*part, &world, &size, options, &mut report).await;
        // What was measured before is worth keeping.
        report.write(&options.out)?;
        measured.with_context(|| format!("{part:?}"))?;
    }
    print(&report);
    step(format!("{} has the charts", options.out.join("report.html").display()));
    Ok(())
}

async fn measure(part: Part, world: &World, size: &Size, options: &Options, report: &mut Report) -> Result<()> {
    let figures: Vec<Figure> = match part {
        Part::Designs => {
            for design in crate::designs::Design::ALL {
                if options.only.is_empty() || options.only.contains(&design) {
                    report.designs.push(designs::run(world, design, size).await?);
                }
            }
            designs::figures(world, size, &report.designs).await?
        }
        Part::Ceilings => ceilings::measure(world, size).await?,
        Part::Claims => {
            let mut figures = claims::measure(world, size).await?;
            figures.extend(exact::measure(world, size).await?);
            figures
        }
        Part::Consumer => consumer::measure(world, size).await?,
        Part::Passes => passes::measure(world, size).await?,
        Part::Start => start::measure(world, size).await?,
    };
    report.figures.extend(figures);
    Ok(())
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The one that all but one in a hundred are below; of fewer than a hundred, the largest.
fn percentile_99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(0.0)
}
