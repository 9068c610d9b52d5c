//! The report as one page that needs no network.

use std::fmt::Write as _;

use firstcome_load::chart::{escape, page as whole};

use super::table::{measured, remark, target, value, verdict};
use super::{Figure, Report};

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
    if let Some(comparison) = &report.comparison {
        body += &comparison.html();
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
