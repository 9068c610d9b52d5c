//! Firstcome compared with the other designs.

use crate::baselines::comparison::{DesignRun, Nothing};
use crate::baselines::{Comparison, Design};
use crate::report::{FigureTarget, Measurement};

const PART: &str = "designs";

pub fn measurements(comparison: &Comparison) -> Vec<Measurement> {
    let nothing = comparison.nothing.as_ref();
    let runs = &comparison.runs;
    let rate = |design| {
        runs.iter()
            .find(|run| run.design == design)
            .map(|run| run.tally.per_second)
    };
    let Some(own) = runs.iter().find(|run| run.design == Design::H) else {
        return Vec::new();
    };
    let mut measurements = Vec::new();
    for (other, target) in [
        (Design::D, FigureTarget::AtLeast(10.0)),
        (Design::I, FigureTarget::Shown),
        (Design::J, FigureTarget::Shown),
    ] {
        if let Some(rate) = rate(other) {
            let what = format!("whole rush ÷ {}", other.word());
            measurements.push(beside(&what, own, rate, nothing).target(target));
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let statements = own.cost.mysql_statements as f64;
    #[allow(clippy::cast_precision_loss, reason = "counts")]
    let requests = own.tally.requests as f64;
    let measurement = Measurement::of(
        PART,
        "MySQL statements of a whole rush, all processes, without passes",
        statements,
        "",
    );
    measurements.push(
        measurement
            .with("requests", requests)
            .with("MySQL CPU s", own.cost.mysql_cpu)
            .target(FigureTarget::AtMost(50.0)),
    );
    let rate = Measurement::of(PART, "claims of that rush", own.tally.per_second, "/s");
    measurements.push(
        rate.with("crowd CPU s", own.tally.cpu_seconds)
            .with("unclear answers", count(own.tally.unhealthy())),
    );
    measurements
}

/// Compares Firstcome with another design, and with a route that does nothing, which
/// shows the limit of the HTTP server.
fn beside(what: &str, own: &DesignRun, other: f64, nothing: Option<&Nothing>) -> Measurement {
    let rate = own.tally.per_second;
    let measurement = Measurement::ratio(PART, what, ("Firstcome/s", rate), ("other/s", other));
    let Some(Nothing { tally, spread }) = nothing else {
        return measurement;
    };
    let measurement = measurement.with("nothing/s", tally.per_second);
    let beside = if own.spread.is_none_or(|own| own.overlaps(*spread)) {
        "Firstcome's turns overlap with those of that route, so the difference may be noise (`ceilings` measures both in turns)".into()
    } else {
        format!(
            "Firstcome reaches {:.0} % of that route",
            rate / tally.per_second * 100.0
        )
    };
    let most = tally.per_second / other;
    measurement.note(format!(
        "the HTTP server on these cores: a route that does nothing is {most:.1} times the other; {beside}"
    ))
}

#[allow(clippy::cast_precision_loss, reason = "a small count")]
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use crate::baselines::comparison::Spread;

    #[test]
    fn turns_overlap_if_their_ranges_intersect() {
        let of = |least, most| Spread(least, most);
        assert!(
            of(84.0, 121.0).overlaps(of(90.0, 99.0)) && of(90.0, 99.0).overlaps(of(84.0, 121.0))
        );
        assert!(
            of(84.0, 92.0).overlaps(of(90.0, 99.0)) && !of(84.0, 89.0).overlaps(of(90.0, 99.0))
        );
    }
}
