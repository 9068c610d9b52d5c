//! Prints the report on the terminal.

use comfy_table::Table;
use firstcome_load::table::{align_right, wide};
use firstcome_load::terminal::number;

use super::{BenchReport, FigureTarget, Measurement};

pub fn print(report: &BenchReport) {
    if let Some(comparison) = &report.comparison {
        println!("{}", comparison.table());
    }
    println!("\n{}", measurements(&report.measurements));
    for (part, error) in &report.failed {
        println!("NOT MEASURED: {part}: {error}");
    }
    let took: Vec<_> = report
        .took
        .iter()
        .map(|(part, seconds)| format!("{part} {seconds:.0} s"))
        .collect();
    println!("{}", took.join(" · "));
    let machine = &report.machine;
    println!(
        "{} cores, {}, load {} before the run",
        machine.cores, machine.processor, machine.load
    );
}

fn measurements(measurements: &[Measurement]) -> Table {
    let mut table = wide(["part", "measurement", "value", "target", "", "inputs, note"]);
    for measurement in measurements {
        table.add_row([
            measurement.section.to_string(),
            measurement.what.clone(),
            value(measurement),
            target(measurement),
            verdict(measurement).to_owned(),
            remark(measurement),
        ]);
    }
    align_right(&mut table, 2);
    align_right(&mut table, 3);
    table
}

fn value(measurement: &Measurement) -> String {
    format!("{} {}", number(measurement.value), measurement.unit)
        .trim_end()
        .to_owned()
}

/// Formats the inputs of a measurement and its note.
fn remark(measurement: &Measurement) -> String {
    let inputs = measurement
        .measured
        .iter()
        .map(|(name, value)| format!("{name} {}", number(*value)));
    let note = Some(measurement.note.clone()).filter(|note| !note.is_empty());
    inputs.chain(note).collect::<Vec<_>>().join(" · ")
}

fn target(measurement: &Measurement) -> String {
    match measurement.target {
        Some(FigureTarget::AtLeast(bound)) => format!("≥ {}", number(bound)),
        Some(FigureTarget::AtMost(bound)) => format!("≤ {}", number(bound)),
        Some(FigureTarget::Shown) => "shown".into(),
        None => String::new(),
    }
}

fn verdict(measurement: &Measurement) -> &'static str {
    match measurement.target {
        Some(FigureTarget::Shown) | None => "",
        Some(target) if target.met(measurement.value) => "met",
        Some(_) => "NOT MET",
    }
}
