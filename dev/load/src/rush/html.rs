//! The report as a page.

use std::fmt::Write as _;

use super::Report;
use crate::chart::{Line, OWN, Scale, escape, lines, page as whole};
use crate::table;
use crate::terminal::grouped;

const GREY: usize = 0;
const BLUE: usize = 4;

pub(super) fn page(report: &Report) -> String {
    let tally = &report.tally;
    let kind = report.rate.map_or_else(
        || "closed loop, each connection asks again once it was answered".to_owned(),
        |rate| format!("open loop, {rate:.0} requests a second by the clock, waits counted from there"),
    );
    let about = format!(
        "{} · {} · {} requests of {} people for coupon {} over {} connections · {kind}",
        report.at,
        report.urls.join(", "),
        grouped(tally.requests),
        grouped(tally.people.into()),
        report.coupon_id,
        report.connections,
    );
    let mut body = String::new();
    for warning in report.warnings() {
        let _ = write!(body, "<p class=\"missed\">{}</p>", escape(&warning));
    }
    body += "<h2>Answers</h2>";
    body += &numbers(report);
    body += "<h2>How long they waited</h2>";
    body += &lines(
        "Latency",
        &latency(report),
        (Scale::Quantiles, "share of answers that were faster"),
        (Scale::Log, "ms"),
    );
    body += "<h2>Admissions</h2>";
    let admitted = over_time(report, |point| Some(point.admitted));
    body += &lines(
        "Admissions",
        &[line("admitted so far", OWN, admitted)],
        (Scale::Linear, "seconds"),
        (Scale::Linear, "people"),
    );
    body += "<h2>Answers a second</h2>";
    // About a hundred points, whatever it took.
    let rate = report.series.rate(report.series.seconds() / 100.0);
    body += &lines(
        "Answers",
        &[line("answers a second", BLUE, rate)],
        (Scale::Linear, "seconds"),
        (Scale::Linear, "answers/s"),
    );
    let statements = over_time(report, |point| point.mysql_statements);
    if !statements.is_empty() {
        body += "<h2>MySQL statements</h2>";
        let name = "statements so far, of every client of this MySQL";
        body += &lines(
            "Statements",
            &[line(name, BLUE, statements)],
            (Scale::Linear, "seconds"),
            (Scale::Linear, "statements"),
        );
    }
    whole("Firstcome: a rush", &about, &body)
}

fn line(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Line {
    Line { name: name.to_owned(), colour, points }
}

fn latency(report: &Report) -> Vec<Line> {
    let tally = &report.tally;
    [("winners (accepted)", OWN, &tally.winners), ("everybody else", GREY, &tally.losers)]
        .into_iter()
        .filter(|(_, _, latency)| latency.count > 0)
        .map(|(name, colour, latency)| {
            line(&format!("{name}, {}", grouped(latency.count)), colour, latency.curve.clone())
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "counts for people to look at")]
fn over_time(report: &Report, pick: impl Fn(&super::Point) -> Option<u64>) -> Vec<(f64, f64)> {
    report.over_time.iter().filter_map(|point| Some((point.at, pick(point)? as f64))).collect()
}

fn numbers(report: &Report) -> String {
    let mut html = "<div class=\"scroll\"><table>".to_owned();
    for (what, value) in table::rows_of(&report.tally).into_iter().chain(report.more()) {
        let _ = write!(html, "<tr><td class=\"l\">{}</td><td>{}</td></tr>", escape(&what), escape(&value));
    }
    html + "</table></div>"
}
