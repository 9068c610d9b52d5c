//! Prints the report on the terminal.

use comfy_table::Table;
use firstcome_load::table::{align_right, wide};
use firstcome_load::terminal::number;

use super::{BenchReport, FigureTarget, Measurement};

pub fn print(report: &BenchReport) {
    if let Some(comparison) = &report.comparison {
        println!("\n{}", comparison.tables());
    }
    println!(
        "\nEverything measured\n{}",
        measurements(&report.measurements)
    );
    println!("\nTargets\n{}", targets(report));
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
    let mut table = wide(["part", "measurement", "value", "out of"]);
    for measurement in measurements {
        table.add_row([
            measurement.section.to_string(),
            measurement.what.clone(),
            value(measurement),
            measured(measurement),
        ]);
    }
    align_right(&mut table, 2);
    table
}

fn targets(report: &BenchReport) -> Table {
    let mut table = wide([
        "target of",
        "is",
        "to be",
        "",
        "how it is read, what limits it",
    ]);
    for measurement in report.targets() {
        table.add_row([
            measurement.what.clone(),
            value(measurement),
            target(measurement),
            verdict(measurement).to_owned(),
            remark(measurement),
        ]);
    }
    for (part, _) in &report.failed {
        table.add_row([
            format!("everything of: {part}"),
            String::new(),
            String::new(),
            "not measured".into(),
            String::new(),
        ]);
    }
    align_right(&mut table, 1);
    align_right(&mut table, 2);
    table
}

fn value(measurement: &Measurement) -> String {
    format!("{} {}", number(measurement.value), measurement.unit)
        .trim_end()
        .to_owned()
}

/// The inputs of a measurement.
fn measured(measurement: &Measurement) -> String {
    let measured: Vec<_> = measurement
        .measured
        .iter()
        .map(|(name, value)| format!("{name} {}", number(*value)))
        .collect();
    measured.join(" · ")
}

/// The note. If a target is missed and there is no note, the inputs.
fn remark(measurement: &Measurement) -> String {
    let missed = measurement
        .target
        .is_some_and(|target| !target.met(measurement.value));
    if missed && measurement.note.is_empty() {
        measured(measurement)
    } else {
        measurement.note.clone()
    }
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
