//! The report on the terminal, and the words that it shares with the page.

use comfy_table::Table;
use firstcome_load::chart::number;
use firstcome_load::table::{align_right, wide};

use super::{Figure, Report, Target};

pub fn print(report: &Report) {
    if let Some(comparison) = &report.comparison {
        println!("\n{}", comparison.tables());
    }
    println!("\nEverything measured\n{}", figures(&report.figures));
    println!("\nTargets\n{}", targets(report));
    for (part, error) in &report.failed {
        println!("NOT MEASURED: {part}: {error}");
    }
    let took: Vec<_> = report.took.iter().map(|(part, seconds)| format!("{part} {seconds:.0} s")).collect();
    println!("{}", took.join(" · "));
    let machine = &report.machine;
    println!("{} cores, {}, load {} before the run", machine.cores, machine.processor, machine.load);
}

fn figures(figures: &[Figure]) -> Table {
    let mut table = wide(["part", "figure", "value", "out of"]);
    for figure in figures {
        table.add_row([figure.section.to_string(), figure.what.clone(), value(figure), measured(figure)]);
    }
    align_right(&mut table, 2);
    table
}

fn targets(report: &Report) -> Table {
    let mut table = wide(["target of", "is", "to be", "", "how it is read, what limits it"]);
    for figure in report.targets() {
        table.add_row([figure.what.clone(), value(figure), target(figure), verdict(figure).to_owned(), remark(figure)]);
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

/// A figure's value with its unit.
pub(super) fn value(figure: &Figure) -> String {
    format!("{} {}", number(figure.value), figure.unit).trim_end().to_owned()
}

/// What it was worked out from.
pub(super) fn measured(figure: &Figure) -> String {
    let measured: Vec<_> = figure.measured.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
    measured.join(" · ")
}

/// How it is read and what limits it; where nothing is said of one that is not met, what it was worked out from.
pub(super) fn remark(figure: &Figure) -> String {
    let missed = figure.target.is_some_and(|target| !target.met(figure.value));
    if missed && figure.note.is_empty() { measured(figure) } else { figure.note.clone() }
}

pub(super) fn target(figure: &Figure) -> String {
    match figure.target {
        Some(Target::AtLeast(bound)) => format!("≥ {}", number(bound)),
        Some(Target::AtMost(bound)) => format!("≤ {}", number(bound)),
        Some(Target::Shown) => "shown".into(),
        None => String::new(),
    }
}

/// Whether it is met.
pub(super) fn verdict(figure: &Figure) -> &'static str {
    match figure.target {
        Some(Target::Shown) | None => "",
        Some(target) if target.met(figure.value) => "met",
        Some(_) => "NOT MET",
    }
}
