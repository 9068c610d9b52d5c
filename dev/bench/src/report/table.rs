//! The report on the terminal.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Figure, Report, Target};
use crate::load::Latency;
use crate::sections::designs::DesignRun;

/// Prints it.
pub fn print(report: &Report) {
    if !report.designs.is_empty() {
        println!("\nThe same rush on every design ({} requests on {})", report.size.requests, report.size.quantity);
        println!("{}", designs(&report.designs));
    }
    println!("{}", figures(&report.figures));
    let machine = &report.machine;
    println!("{} cores, {}, load {} before the run", machine.cores, machine.processor, machine.load);
}

fn designs(runs: &[DesignRun]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(COLUMNS);
    for run in runs {
        table.add_row(cells(run));
    }
    align(&mut table, 2);
    table
}

/// The columns of the comparison, here and in the HTML.
pub(super) const COLUMNS: [&str; 15] = [
    "",
    "design",
    "requests/s",
    "winners p50/p99/p99.9 ms",
    "losers p50/p99/p99.9 ms",
    "rows",
    "too many",
    "too few",
    "twice",
    "yes without a row",
    "after a killed consumer",
    "after a MySQL crash",
    "MySQL statements",
    "MySQL CPU s",
    "Redis commands",
];

/// A row of the comparison.
pub(super) fn cells(run: &DesignRun) -> [String; 15] {
    let lost = |lost: &Option<u64>| lost.map_or_else(|| "–".into(), |lost| lost.to_string());
    [
        run.design.word().to_owned(),
        run.design.title().to_owned(),
        format!("{:.0}", run.seen.per_second),
        latency(run.seen.winners.as_ref()),
        latency(run.seen.losers.as_ref()),
        run.rows.to_string(),
        run.too_many.to_string(),
        run.too_few.to_string(),
        run.twice.to_string(),
        run.yes_without_row.to_string(),
        lost(&run.lost_by_consumer_kill),
        lost(&run.lost_by_mysql_crash),
        run.cost.mysql_statements.to_string(),
        format!("{:.2}", run.cost.mysql_cpu),
        run.cost.redis_commands.to_string(),
    ]
}

fn latency(latency: Option<&Latency>) -> String {
    latency.map_or_else(|| "–".into(), |l| format!("{:.1}/{:.1}/{:.1}", l.p50, l.p99, l.p999))
}

fn figures(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(["part", "figure", "value", "target", "", "measured"]);
    for figure in figures {
        let measured: Vec<_> =
            figure.measured.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
        table.add_row([
            figure.section.to_owned(),
            figure.what.clone(),
            value(figure),
            target(figure),
            verdict(figure).to_owned(),
            measured.join(" · "),
        ]);
    }
    align(&mut table, 2);
    table
}

fn align(table: &mut Table, from: usize) {
    if let Some(column) = table.column_mut(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// A figure's value with its unit.
pub(super) fn value(figure: &Figure) -> String {
    format!("{} {}", number(figure.value), figure.unit)
}

/// Its target.
pub(super) fn target(figure: &Figure) -> String {
    match figure.target {
        Some(Target::AtLeast(bound)) => format!("≥ {}", number(bound)),
        Some(Target::AtMost(bound)) => format!("≤ {}", number(bound)),
        None => String::new(),
    }
}

/// Whether it is met.
pub(super) fn verdict(figure: &Figure) -> &'static str {
    match figure.target {
        Some(target) if target.met(figure.value) => "met",
        Some(_) => "not met",
        None => "",
    }
}

/// As many digits as matter.
pub(super) fn number(value: f64) -> String {
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "positive and rounded")]
    match value {
        v if v >= 1_000.0 => firstcome_rush::live::grouped(v.round() as u64),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
