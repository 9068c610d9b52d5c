//! The report as one page that needs no network.

use std::fmt::Write as _;

use super::chart::{Line, Scale, bars, escape, lines};
use super::table::{COLUMNS, cells, target, value, verdict};
use super::{Figure, Report};
use crate::designs::Design;
use crate::load::BUCKET_MS;
use crate::sections::designs::DesignRun;

/// A colour a design that can be told apart from its neighbours, in light and dark; Firstcome's stands out.
const COLOURS: [&str; 10] =
    ["#8c959f", "#a475f9", "#d4a72c", "#bf8700", "#57a6ff", "#3b7dd8", "#e16f24", "#d2619a", "#2da9a3", "#2da44e"];

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut css = include_str!("page.css").to_owned();
    for (number, colour) in COLOURS.iter().enumerate() {
        let _ =
            writeln!(css, "svg rect.c{number} {{ fill: {colour}; }} svg polyline.c{number} {{ stroke: {colour}; }}");
    }
    let machine = &report.machine;
    let about = format!(
        "{} · {} cores, {}, {} GiB, Linux {} · load {} before the run. Compare figures of this run with each other only.",
        machine.at, machine.cores, machine.processor, machine.memory_gib, machine.kernel, machine.load
    );
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Firstcome: measured</title><style>{css}</style><h1>Firstcome: measured</h1><p class=\"soft\">{}</p>{}{}</html>\n",
        escape(&about),
        if report.designs.is_empty() { String::new() } else { designs(report) },
        figures(&report.figures),
    )
}

fn designs(report: &Report) -> String {
    let (runs, size) = (&report.designs, &report.size);
    let mut html = format!(
        "<h2>The same rush on every design</h2><p class=\"soft\">{} requests on {} coupons over {} connections, on the same \
         servers behind the same HTTP front; everybody asks twice at once.</p>",
        size.requests, size.quantity, size.connections
    );
    html += &bars("Requests a second", &by_design(runs, |run| run.seen.per_second), false);
    html += &comparison(runs);
    html += "<h2>How long losers waited</h2>";
    html += &lines("Latency of losers", &latencies(runs), (Scale::Quantiles, "share of requests"), (Scale::Log, "ms"));
    html += "<h2>Admissions over time</h2>";
    html += &lines("Admissions", &admissions(runs), (Scale::Linear, "ms"), (Scale::Linear, "admitted"));
    html += "<h2>MySQL statements until the last row (by powers of ten)</h2>";
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let statements = by_design(runs, |run| run.cost.mysql_statements as f64);
    html += &bars("MySQL statements", &statements, true);
    html += "<h2>MySQL statements over time</h2>";
    html += &lines("MySQL statements", &over_time(runs), (Scale::Linear, "s"), (Scale::Log, "statements"));
    html
}

fn name(design: Design) -> String {
    format!("{} · {}", design.word(), design.title())
}

fn by_design(runs: &[DesignRun], pick: impl Fn(&DesignRun) -> f64) -> Vec<(String, f64, usize)> {
    runs.iter().map(|run| (name(run.design), pick(run), run.design as usize)).collect()
}

fn line(run: &DesignRun, points: Vec<(f64, f64)>) -> Line {
    Line { name: name(run.design), colour: run.design as usize, points }
}

fn latencies(runs: &[DesignRun]) -> Vec<Line> {
    let curve = |run: &DesignRun| Some(line(run, run.seen.losers.as_ref()?.curve.clone()));
    runs.iter().filter_map(curve).collect()
}

fn admissions(runs: &[DesignRun]) -> Vec<Line> {
    let width = f64::from(u32::try_from(BUCKET_MS).unwrap_or(1));
    let curve = |run: &DesignRun| {
        let (mut at, mut sum, mut points) = (0.0, 0.0, vec![(0.0, 0.0)]);
        for admitted in &run.seen.admissions {
            (at, sum) = (at + width, sum + f64::from(*admitted));
            points.push((at, sum));
        }
        line(run, points)
    };
    runs.iter().map(curve).collect()
}

fn over_time(runs: &[DesignRun]) -> Vec<Line> {
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let curve =
        |run: &DesignRun| line(run, run.statements.iter().map(|(at, count)| (*at, (*count as f64).max(1.0))).collect());
    runs.iter().map(curve).collect()
}

fn comparison(runs: &[DesignRun]) -> String {
    let mut html = "<div class=\"scroll\"><table><tr>".to_owned();
    for column in COLUMNS {
        let _ = write!(html, "<th>{}</th>", escape(column));
    }
    html += "</tr>";
    for run in runs {
        html += if run.design == Design::H { "<tr class=\"own\">" } else { "<tr>" };
        for (number, cell) in cells(run).iter().enumerate() {
            let class = if number < 2 { " class=\"l nowrap\"" } else { "" };
            let _ = write!(html, "<td{class}>{}</td>", escape(cell));
        }
        html += "</tr>";
    }
    html + "</table></div>"
}

fn figures(figures: &[Figure]) -> String {
    let mut html = "<h2>Ceilings and targets</h2><div class=\"scroll\"><table><tr><th class=\"l\">part</th>\
                    <th class=\"l\">figure</th><th>value</th><th>target</th><th></th><th class=\"l\">measured</th></tr>"
        .to_owned();
    for figure in figures {
        let mut measured: Vec<_> =
            figure.measured.iter().map(|(name, value)| format!("{name} {}", super::table::number(*value))).collect();
        measured.extend((!figure.note.is_empty()).then(|| figure.note.clone()));
        let class = if verdict(figure) == "met" { "met" } else { "missed" };
        let _ = write!(
            html,
            "<tr><td class=\"l soft\">{}</td><td class=\"l\">{}</td><td>{}</td><td>{}</td><td class=\"{class}\">{}</td>\
             <td class=\"l soft\">{}</td></tr>",
            figure.section,
            escape(&figure.what),
            escape(&value(figure)),
            escape(&target(figure)),
            verdict(figure),
            escape(&measured.join(" · ")),
        );
    }
    html + "</table></div>"
}
