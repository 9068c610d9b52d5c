//! The report as one page that needs no network.

use std::fmt::Write as _;

use firstcome_load::chart::{escape, page as whole};

use super::table::{measured, remark, target, value, verdict};
use super::{Measurement, Report};

pub(super) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let about = format!(
        "{} · {} cores, {}, {} GiB, Linux {} · load {} before the run. Compare measurements of this run with each other only.",
        machine.at, machine.cores, machine.processor, machine.memory_gib, machine.kernel, machine.load
    );
    let mut body = String::new();
    for (part, error) in &report.failed {
        let _ = write!(body, "<p class=\"missed\">Not measured: {}: {}</p>", escape(part), escape(error));
    }
    if let Some(comparison) = &report.comparison {
        body += &comparison.html();
    }
    if report.targets().next().is_some() {
        body += "<h2>Targets</h2>";
        body += &targets(report);
    }
    body += "<h2>Everything measured</h2>";
    body += &measurements(&report.measurements);
    let took: Vec<_> = report.took.iter().map(|(part, seconds)| format!("{part} {seconds:.0} s")).collect();
    let _ = write!(body, "<p class=\"soft\">Took: {}</p>", escape(&took.join(" · ")));
    whole("Firstcome: measured", &about, &body)
}

fn targets(report: &Report) -> String {
    let mut html = "<div class=\"scroll\"><table><tr><th class=\"l\">target of</th><th>is</th><th>to be</th><th></th>\
                    <th class=\"l\">how it is read, what limits it</th></tr>"
        .to_owned();
    for measurement in report.targets() {
        let class = if verdict(measurement) == "met" { "met" } else { "missed" };
        let _ = write!(
            html,
            "<tr><td class=\"l\">{}</td><td class=\"nowrap\">{}</td><td class=\"nowrap\">{}</td><td class=\"{class}\">{}</td>\
             <td class=\"l soft\">{}</td></tr>",
            escape(&measurement.what),
            escape(&value(measurement)),
            escape(&target(measurement)),
            verdict(measurement),
            escape(&remark(measurement)),
        );
    }
    html + "</table></div>"
}

fn measurements(measurements: &[Measurement]) -> String {
    let mut html =
        "<div class=\"scroll\"><table><tr><th class=\"l\">part</th><th class=\"l\">measurement</th><th>value</th>\
                    <th class=\"l\">out of</th></tr>"
            .to_owned();
    for measurement in measurements {
        let _ = write!(
            html,
            "<tr><td class=\"l soft\">{}</td><td class=\"l\">{}</td><td class=\"nowrap\">{}</td><td class=\"l soft\">{}</td></tr>",
            escape(&measurement.section),
            escape(&measurement.what),
            escape(&value(measurement)),
            escape(&measured(measurement)),
        );
    }
    html + "</table></div>"
}
