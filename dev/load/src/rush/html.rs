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
    let _ = write!(body, "<h2>Answers</h2>{}", numbers(report));
    let shares = (Scale::Quantiles, "share of answers that were faster");
    chart(&mut body, "How long they waited", &latency(report), shares, (Scale::Log, "ms"));
    let seconds = (Scale::Linear, "seconds");
    let admitted = line("admitted so far", OWN, over_time(report, |point| Some(point.admitted)));
    chart(&mut body, "Admissions", &[admitted], seconds, (Scale::Linear, "people"));
    // About a hundred points, whatever it took.
    let rate = line("answers a second", BLUE, report.series.rate(report.series.seconds() / 100.0));
    chart(&mut body, "Answers a second", &[rate], seconds, (Scale::Linear, "answers/s"));
    let statements = over_time(report, |point| point.mysql_statements);
    if !statements.is_empty() {
        let statements = line("statements so far, of every client of this MySQL", BLUE, statements);
        chart(&mut body, "MySQL statements", &[statements], seconds, (Scale::Linear, "statements"));
    }
    whole("Firstcome: a rush", &about, &body)
}

fn chart(body: &mut String, title: &str, curves: &[Line], x: (Scale, &str), y: (Scale, &str)) {
    let _ = write!(body, "<h2>{title}</h2>{}", lines(title, curves, x, y));
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
