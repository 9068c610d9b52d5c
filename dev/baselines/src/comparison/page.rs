//! The comparison as part of a page.

use std::fmt::Write as _;

use firstcome_load::chart::{Bar, Line, OWN, Scale, bars, escape, lines};
use firstcome_load::tally::{BUCKET_MS, Latency};

use super::columns::{Column, SPEED, TRUTH, is_text};
use super::{Comparison, DesignRun};
use crate::designs::Design;

/// Colour of the route that does nothing.
const NOTHING: usize = 11;

/// The colour of a design: its variant stands beside it, Firstcome's own stands out.
pub(super) fn colour(design: Design) -> usize {
    if design == Design::H { OWN } else { design as usize }
}

fn name(design: Design) -> String {
    format!("{} · {}", design.word(), design.title())
}

fn bar(run: &DesignRun, value: f64) -> Bar {
    Bar { name: name(run.design), colour: colour(run.design), value }
}

fn line(run: &DesignRun, points: Vec<(f64, f64)>) -> Line {
    Line { name: name(run.design), colour: colour(run.design), points }
}

impl Comparison {
    /// The charts and tables, as HTML.
    pub fn html(&self) -> String {
        let size = &self.size;
        let mut html = format!(
            "<h2>The same rush on every design</h2><p class=\"soft\">{} requests on {} coupons over {} connections, on the same \
             servers behind the same HTTP front; everybody asks twice at once. Redis commands are those inside scripts too.</p>",
            size.requests, size.quantity, size.connections
        );
        html += &bars("Requests a second", "requests a second", &self.speeds(), false);
        html += &self.html_table(&SPEED);
        html += &self.html_table(&TRUTH);
        for (who, pick) in
            [("winners", (|run| &run.tally.winners) as fn(&DesignRun) -> &Latency), ("losers", |run| &run.tally.losers)]
        {
            let _ = write!(html, "<h2>How long {who} waited</h2>");
            let (x, y) = ((Scale::Quantiles, "share of answers that were faster"), (Scale::Log, "waited, ms"));
            html += &lines(&format!("Latency of {who}"), &self.curves(pick), x, y);
        }
        let people = (Scale::Linear, "people admitted");
        html += "<h2>Admissions over time</h2>";
        html += &lines("Admissions", &self.admissions(), (Scale::Linear, "ms since the first request"), people);
        html += "<h2>MySQL statements until the last row</h2>";
        html += &bars("MySQL statements", "statements", &self.statements(), true);
        html += "<h2>MySQL statements over time</h2>";
        let (x, y) = ((Scale::Linear, "seconds"), (Scale::Log, "statements so far"));
        html + &lines("MySQL statements", &self.statements_over_time(), x, y)
    }

    /// Requests a second of every design, and of the route that does nothing.
    pub(super) fn speeds(&self) -> Vec<Bar> {
        let mut bars: Vec<Bar> = self.runs.iter().map(|run| bar(run, run.tally.per_second.round())).collect();
        bars.extend(self.nothing.as_ref().map(|tally| {
            let name = "a route that does nothing".to_owned();
            Bar { name, colour: NOTHING, value: tally.per_second.round() }
        }));
        bars
    }

    #[allow(clippy::cast_precision_loss, reason = "counts")]
    fn statements(&self) -> Vec<Bar> {
        self.runs.iter().map(|run| bar(run, run.cost.mysql_statements as f64)).collect()
    }

    fn curves(&self, pick: fn(&DesignRun) -> &Latency) -> Vec<Line> {
        let answered = self.runs.iter().filter(|run| pick(run).count > 0);
        answered.map(|run| line(run, pick(run).curve.clone())).collect()
    }

    fn admissions(&self) -> Vec<Line> {
        let width = f64::from(u32::try_from(BUCKET_MS).unwrap_or(1));
        let curve = |run: &DesignRun| {
            let (mut at, mut sum, mut points) = (0.0, 0.0, vec![(0.0, 0.0)]);
            for admitted in &run.tally.admissions {
                (at, sum) = (at + width, sum + f64::from(*admitted));
                points.push((at, sum));
            }
            line(run, points)
        };
        self.runs.iter().map(curve).collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "counts")]
    fn statements_over_time(&self) -> Vec<Line> {
        let point = |(at, count): &(f64, u64)| (*at, (*count as f64).max(1.0));
        self.runs.iter().map(|run| line(run, run.statements.iter().map(point).collect())).collect()
    }

    fn html_table(&self, columns: &[Column]) -> String {
        let class = |head: &str| if is_text(head) { " class=\"l nowrap\"" } else { "" };
        let mut html = "<div class=\"scroll\"><table><tr>".to_owned();
        for (head, _) in columns {
            let _ = write!(html, "<th{}>{}</th>", class(head), escape(head));
        }
        html += "</tr>";
        for run in &self.runs {
            html += if run.design == Design::H { "<tr class=\"own\">" } else { "<tr>" };
            for (head, cell) in columns {
                let _ = write!(html, "<td{}>{}</td>", class(head), escape(&cell(run)));
            }
            html += "</tr>";
        }
        html + "</table></div>"
    }
}
