//! The table of a comparison.

use std::fmt::Write as _;

use firstcome_load::tally::Latency;
use firstcome_load::terminal::{grouped, number};

use super::{Comparison, DesignRun, Spread};
use crate::baselines::designs::Design;

impl Comparison {
    /// Formats all designs as a Markdown table, for the terminal and the README.
    pub fn table(&self) -> String {
        table(self)
    }
}

fn table(comparison: &Comparison) -> String {
    let size = &comparison.size;
    let mut text = format!(
        "\n{} requests of {} people on {} coupons over {} connections; everybody asks twice at once. {} cores for the crowd, \
         the design, Redis (AOF `always`), MySQL and Kafka together; compare the figures with each other only.\n\n",
        grouped(size.requests.into()),
        grouped((size.requests / 2).into()),
        size.quantity,
        size.connections,
        comparison.cores
    );
    text += "| Design | requests/s | winners p50 · p99 ms | others p50 · p99 ms | rows | promised, no row | after a killed \
             consumer · MySQL crash | promised and sold out | MySQL statements |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for run in &comparison.runs {
        text += &row(run);
    }
    if let Some(nothing) = &comparison.nothing {
        let rate = rate(nothing.tally.per_second, Some(nothing.spread));
        let _ = writeln!(
            text,
            "| *a route that does nothing* | *{rate}* | | | | | | | |"
        );
    }
    text.push('\n');
    text
}

fn row(run: &DesignRun) -> String {
    let lost = |lost: Option<u64>| lost.map_or_else(|| "–".to_owned(), bad);
    let own = if run.design == Design::H { "**" } else { "" };
    let right = run.too_many + run.too_few + run.twice == 0;
    format!(
        "| {own}{} {}{own} | {own}{}{own} | {} | {} | {} | {} | {} · {} | {} | {} |\n",
        run.design.word(),
        run.design.title(),
        rate(run.tally.per_second, run.spread),
        latency(&run.tally.winners),
        latency(&run.tally.others),
        if right {
            run.rows.to_string()
        } else {
            format!("**{}**", run.rows)
        },
        bad(run.promised_without_row),
        lost(run.lost_by_consumer_kill),
        lost(run.lost_by_mysql_crash),
        bad(run.tally.holders_denied),
        grouped(run.cost.mysql_statements),
    )
}

/// Formats the median turn, with the slowest and the fastest.
fn rate(middle: f64, spread: Option<Spread>) -> String {
    let spread = spread.map(|Spread(least, most)| {
        format!(" ({}–{})", number(least.round()), number(most.round()))
    });
    format!("{}{}", number(middle.round()), spread.unwrap_or_default())
}

/// Highlights every number except 0.
fn bad(count: u64) -> String {
    if count == 0 {
        "0".into()
    } else {
        format!("**{}**", grouped(count))
    }
}

fn latency(latency: &Latency) -> String {
    if latency.count == 0 {
        "–".into()
    } else {
        format!("{} · {}", number(latency.p50_ms), number(latency.p99_ms))
    }
}
