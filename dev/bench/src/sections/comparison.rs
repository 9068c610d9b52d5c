//! Firstcome beside the best of the other designs.

use firstcome_baselines::{Comparison, Design};
use firstcome_load::tally::Tally;

use crate::report::{Figure, Target};

const PART: &str = "designs";

pub fn figures(comparison: &Comparison) -> Vec<Figure> {
    let (nothing, runs) = (comparison.nothing.as_ref(), &comparison.runs);
    let rate = |design| runs.iter().find(|run| run.design == design).map(|run| run.tally.per_second);
    let Some(own) = runs.iter().find(|run| run.design == Design::H) else { return Vec::new() };
    let mut figures = Vec::new();
    let shown = Target::Shown;
    for (what, designs, target) in [
        ("whole rush ÷ best of c, d, e", &[Design::C, Design::D, Design::E][..], Target::AtLeast(10.0)),
        ("whole rush ÷ best of c, d", &[Design::C, Design::D], shown),
        ("whole rush ÷ best of them when they look before they lock", &[Design::CLook, Design::DLook], shown),
        ("whole rush ÷ e with its counter first, which tells holders that it is sold out", &[Design::EFirst], shown),
    ] {
        let best = designs.iter().filter_map(|design| rate(*design)).fold(0.0, f64::max);
        if best > 0.0 {
            figures.push(beside(what, own.tally.per_second, best, nothing).target(target));
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let (statements, requests) = (own.cost.mysql_statements as f64, own.tally.requests as f64);
    let figure = Figure::of(PART, "MySQL statements of a whole rush, all processes, without passes", statements, "");
    figures
        .push(figure.with("requests", requests).with("MySQL CPU s", own.cost.mysql_cpu).target(Target::AtMost(50.0)));
    let rate = Figure::of(PART, "claims of that rush", own.tally.per_second, "/s");
    figures.push(rate.with("crowd CPU s", own.tally.cpu_seconds).with("unclear answers", count(own.tally.unhealthy())));
    figures
}

/// Firstcome beside the best of some; where even a route that does nothing is not ten times as fast, that is the limit.
fn beside(what: &str, own: f64, best: f64, nothing: Option<&Tally>) -> Figure {
    let figure = Figure::ratio(PART, what, ("Firstcome/s", own), ("best/s", best));
    let Some(nothing) = nothing else { return figure };
    let figure = figure.with("nothing/s", nothing.per_second);
    let most = nothing.per_second / best;
    figure.note(format!(
        "the HTTP server on these cores: a route that does nothing is {most:.1} times the best, and Firstcome does {:.0} % of that route",
        own / nothing.per_second * 100.0
    ))
}

#[allow(clippy::cast_precision_loss, reason = "a small count")]
fn count(number: u64) -> f64 {
    number as f64
}
