//! The report on the terminal, and the words that it shares with the page.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use firstcome_rush::chart::number;

use super::{Figure, Report, Target};
use crate::load::Latency;
use crate::sections::designs::DesignRun;

/// Width for text that has to be broken.
const WIDE: u16 = 150;

pub fn print(report: &Report) {
    if !report.designs.is_empty() {
        let size = &report.size;
        println!("\nThe same rush on every design: {} requests on {}", size.requests, size.quantity);
        println!("{}\n{}", designs(&report.designs, &SPEED), designs(&report.designs, &TRUTH));
        if let Some(nothing) = &report.nothing {
            println!("the same crowd and a route that does nothing: {} a second", number(nothing.per_second.round()));
        }
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

/// A column of the comparison: its head, and what stands in a design's row.
pub(super) type Column = (&'static str, fn(&DesignRun) -> String);

pub(super) const SPEED: [Column; 5] = [
    ("", |run| run.design.word().into()),
    ("design", |run| run.design.title().into()),
    ("requests/s", |run| number(run.seen.per_second.round())),
    ("winners p50 / p99 / p99.9 ms", |run| latency(run.seen.winners.as_ref())),
    ("losers p50 / p99 / p99.9 ms", |run| latency(run.seen.losers.as_ref())),
];

/// How right, and for how much.
pub(super) const TRUTH: [Column; 12] = [
    ("", |run| run.design.word().into()),
    ("rows", |run| run.rows.to_string()),
    ("over-issued", |run| run.too_many.to_string()),
    ("too few", |run| run.too_few.to_string()),
    ("doubled", |run| run.twice.to_string()),
    ("told yes, no row", |run| run.yes_without_row.to_string()),
    ("… after a killed consumer", |run| lost(run.lost_by_consumer_kill)),
    ("… after a MySQL crash", |run| lost(run.lost_by_mysql_crash)),
    ("told both yes and sold out", |run| run.seen.holders_denied.to_string()),
    ("MySQL statements", |run| whole(run.cost.mysql_statements)),
    ("MySQL CPU s", |run| format!("{:.2}", run.cost.mysql_cpu)),
    ("Redis commands", |run| whole(run.cost.redis_commands)),
];

/// A design without a consumer has none that could be killed.
fn lost(lost: Option<u64>) -> String {
    lost.map_or_else(|| "–".into(), |lost| lost.to_string())
}

fn whole(count: u64) -> String {
    firstcome_rush::live::grouped(count)
}

fn latency(latency: Option<&Latency>) -> String {
    latency.map_or_else(|| "–".into(), |l| format!("{:.1} / {:.1} / {:.1}", l.p50, l.p99, l.p999))
}

fn designs(runs: &[DesignRun], columns: &[Column]) -> Table {
    let mut table = plain();
    table.set_header(columns.iter().map(|column| column.0));
    for run in runs {
        table.add_row(columns.iter().map(|column| column.1(run)));
    }
    for (at, (head, _)) in columns.iter().enumerate() {
        if !matches!(*head, "" | "design") {
            align(&mut table, at);
        }
    }
    table
}

fn figures(figures: &[Figure]) -> Table {
    let mut table = plain();
    table.set_header(["part", "figure", "value", "out of"]);
    for figure in figures {
        table.add_row([figure.section.to_string(), figure.what.clone(), value(figure), measured(figure)]);
    }
    align(&mut table, 2);
    table
}

fn targets(report: &Report) -> Table {
    let mut table = plain();
    table.set_header(["target of", "is", "to be", "", "how it is read, what limits it"]);
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
    align(&mut table, 1);
    align(&mut table, 2);
    table
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDE);
    table
}

fn align(table: &mut Table, at: usize) {
    if let Some(column) = table.column_mut(at) {
        column.set_cell_alignment(CellAlignment::Right);
    }
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
