//! The report as one page that needs no network.

use std::fmt::Write as _;

use firstcome_rush::chart::{Bar, Line, OWN, Scale, bars, escape, lines, page as whole};

use super::table::{Column, SPEED, TRUTH, measured, remark, target, value, verdict};
use super::{Figure, Report};
use crate::designs::Design;
use crate::load::{BUCKET_MS, Latency};
use crate::sections::designs::DesignRun;

/// Colour of the route that does nothing.
const NOTHING: usize = 11;

/// The colour of a design: its variant stands beside it, Firstcome's own stands out.
pub(super) fn colour(design: Design) -> usize {
    if design == Design::H { OWN } else { design as usize }
}

pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let about = format!(
        "{} · {} cores, {}, {} GiB, Linux {} · load {} before the run. Compare figures of this run with each other only.",
        machine.at, machine.cores, machine.processor, machine.memory_gib, machine.kernel, machine.load
    );
    let mut body = String::new();
    for (part, error) in &report.failed {
        let _ = write!(body, "<p class=\"missed\">Not measured: {}: {}</p>", escape(part), escape(error));
    }
    if !report.designs.is_empty() {
        body += &designs(report);
    }
    if report.targets().next().is_some() {
        body += "<h2>Targets</h2>";
        body += &targets(report);
    }
    body += "<h2>Everything measured</h2>";
    body += &figures(&report.figures);
    let took: Vec<_> = report.took.iter().map(|(part, seconds)| format!("{part} {seconds:.0} s")).collect();
    let _ = write!(body, "<p class=\"soft\">Took: {}</p>", escape(&took.join(" · ")));
    whole("Firstcome: measured", &about, &body)
}

fn designs(report: &Report) -> String {
    let (runs, size) = (&report.designs, &report.size);
    let mut html = format!(
        "<h2>The same rush on every design</h2><p class=\"soft\">{} requests on {} coupons over {} connections, on the same \
         servers behind the same HTTP front; everybody asks twice at once. Redis commands are those inside scripts too.</p>",
        size.requests, size.quantity, size.connections
    );
    html += &bars("Requests a second", "requests a second", &speeds(report), false);
    html += &comparison(runs, &SPEED);
    html += &comparison(runs, &TRUTH);
    let wait = (Scale::Log, "waited, ms");
    for (who, pick) in [
        ("winners", (|run| run.seen.winners.as_ref()) as fn(&DesignRun) -> Option<&Latency>),
        ("losers", |run| run.seen.losers.as_ref()),
    ] {
        let _ = write!(html, "<h2>How long {who} waited</h2>");
        let curves = curves(runs, pick);
        html += &lines(
            &format!("Latency of {who}"),
            &curves,
            (Scale::Quantiles, "share of answers that were faster"),
            wait,
        );
    }
    html += "<h2>Admissions over time</h2>";
    html += &lines(
        "Admissions",
        &admissions(runs),
        (Scale::Linear, "ms since the first request"),
        (Scale::Linear, "people admitted"),
    );
    html += "<h2>MySQL statements until the last row</h2>";
    html += &bars("MySQL statements", "statements", &statements(runs), true);
    html += "<h2>MySQL statements over time</h2>";
    html += &lines("MySQL statements", &over_time(runs), (Scale::Linear, "seconds"), (Scale::Log, "statements so far"));
    html
}

fn name(design: Design) -> String {
    format!("{} · {}", design.word(), design.title())
}

/// Requests a second of every design, and of the route that does nothing.
pub(super) fn speeds(report: &Report) -> Vec<Bar> {
    let bar = |run: &DesignRun| Bar {
        name: name(run.design),
        colour: colour(run.design),
        value: run.seen.per_second.round(),
    };
    let mut bars: Vec<Bar> = report.designs.iter().map(bar).collect();
    bars.extend(report.nothing.as_ref().map(|seen| {
        let name = "a route that does nothing".to_owned();
        Bar { name, colour: NOTHING, value: seen.per_second.round() }
    }));
    bars
}

fn statements(runs: &[DesignRun]) -> Vec<Bar> {
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let bar = |run: &DesignRun| Bar {
        name: name(run.design),
        colour: colour(run.design),
        value: run.cost.mysql_statements as f64,
    };
    runs.iter().map(bar).collect()
}

fn line(run: &DesignRun, points: Vec<(f64, f64)>) -> Line {
    Line { name: name(run.design), colour: colour(run.design), points }
}

fn curves(runs: &[DesignRun], pick: impl Fn(&DesignRun) -> Option<&Latency>) -> Vec<Line> {
    runs.iter().filter_map(|run| Some(line(run, pick(run)?.curve.clone()))).collect()
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

fn comparison(runs: &[DesignRun], columns: &[Column]) -> String {
    let class = |head: &str| if matches!(head, "" | "design") { " class=\"l nowrap\"" } else { "" };
    let mut html = "<div class=\"scroll\"><table><tr>".to_owned();
    for (head, _) in columns {
        let _ = write!(html, "<th{}>{}</th>", class(head), escape(head));
    }
    html += "</tr>";
    for run in runs {
        html += if run.design == Design::H { "<tr class=\"own\">" } else { "<tr>" };
        for (head, cell) in columns {
            let _ = write!(html, "<td{}>{}</td>", class(head), escape(&cell(run)));
        }
        html += "</tr>";
    }
    html + "</table></div>"
}

fn targets(report: &Report) -> String {
    let mut html = "<div class=\"scroll\"><table><tr><th class=\"l\">target of</th><th>is</th><th>to be</th><th></th>\
                    <th class=\"l\">how it is read, what limits it</th></tr>"
        .to_owned();
    for figure in report.targets() {
        let class = if verdict(figure) == "met" { "met" } else { "missed" };
        let _ = write!(
            html,
            "<tr><td class=\"l\">{}</td><td class=\"nowrap\">{}</td><td class=\"nowrap\">{}</td><td class=\"{class}\">{}</td>\
             <td class=\"l soft\">{}</td></tr>",
            escape(&figure.what),
            escape(&value(figure)),
            escape(&target(figure)),
            verdict(figure),
            escape(&remark(figure)),
        );
    }
    html + "</table></div>"
}

fn figures(figures: &[Figure]) -> String {
    let mut html =
        "<div class=\"scroll\"><table><tr><th class=\"l\">part</th><th class=\"l\">figure</th><th>value</th>\
                    <th class=\"l\">out of</th></tr>"
            .to_owned();
    for figure in figures {
        let _ = write!(
            html,
            "<tr><td class=\"l soft\">{}</td><td class=\"l\">{}</td><td class=\"nowrap\">{}</td><td class=\"l soft\">{}</td></tr>",
            escape(&figure.section),
            escape(&figure.what),
            escape(&value(figure)),
            escape(&measured(figure)),
        );
    }
    html + "</table></div>"
}
