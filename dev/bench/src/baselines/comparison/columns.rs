//! Renders the comparison as tables.

use comfy_table::Table;
use firstcome_load::table::{align_right, wide};
use firstcome_load::tally::Latency;
use firstcome_load::terminal::{grouped, number};

use super::{Comparison, DesignRun, Spread};

/// A column: its header and the cell of a design's row.
type Column = (&'static str, fn(&DesignRun) -> String);

const SPEED: [Column; 5] = [
    ("", |run| run.design.word().into()),
    ("design", |run| run.design.title().into()),
    ("requests/s", |run| rate(run.tally.per_second, run.spread)),
    ("winners p50 / p99 / p99.9 ms", |run| {
        latency(&run.tally.winners)
    }),
    ("others p50 / p99 / p99.9 ms", |run| {
        latency(&run.tally.others)
    }),
];

/// Correctness and cost.
const TRUTH: [Column; 12] = [
    ("", |run| run.design.word().into()),
    ("rows", |run| run.rows.to_string()),
    ("over-issued", |run| run.too_many.to_string()),
    ("too few", |run| run.too_few.to_string()),
    ("doubled", |run| run.twice.to_string()),
    ("promised, no row", |run| {
        run.promised_without_row.to_string()
    }),
    ("… after a killed consumer", |run| {
        lost(run.lost_by_consumer_kill)
    }),
    ("… after a MySQL crash", |run| {
        lost(run.lost_by_mysql_crash)
    }),
    ("promised and sold out", |run| {
        run.tally.holders_denied.to_string()
    }),
    ("MySQL statements", |run| grouped(run.cost.mysql_statements)),
    ("MySQL CPU s", |run| format!("{:.2}", run.cost.mysql_cpu)),
    ("Redis commands", |run| grouped(run.cost.redis_commands)),
];

/// Whether a column holds text, so that it is left-aligned.
fn is_text(head: &str) -> bool {
    matches!(head, "" | "design")
}

impl Comparison {
    /// The tables as the terminal shows them.
    pub fn tables(&self) -> String {
        let requests = grouped(self.size.requests.into());
        let quantity = self.size.quantity;
        let nothing = self.nothing.as_ref().map_or_else(String::new, |nothing| {
            let rate = rate(nothing.tally.per_second, Some(nothing.spread));
            format!("\nthe same crowd and a route that does nothing: {rate} a second")
        });
        format!(
            "The same rush on every design: {requests} requests on {quantity}\n{}\n{}{nothing}",
            self.table(&SPEED),
            self.table(&TRUTH)
        )
    }

    fn table(&self, columns: &[Column]) -> Table {
        let mut table = wide(columns.iter().map(|column| column.0));
        for run in &self.runs {
            table.add_row(columns.iter().map(|column| column.1(run)));
        }
        for (at, (head, _)) in columns.iter().enumerate() {
            if !is_text(head) {
                align_right(&mut table, at);
            }
        }
        table
    }
}

/// The median turn, with the slowest and the fastest.
pub(super) fn rate(middle: f64, spread: Option<Spread>) -> String {
    let spread = spread.map(|Spread(least, most)| {
        format!(" ({}–{})", number(least.round()), number(most.round()))
    });
    format!("{}{}", number(middle.round()), spread.unwrap_or_default())
}

/// A dash for designs without a consumer.
fn lost(lost: Option<u64>) -> String {
    lost.map_or_else(|| "–".into(), |lost| lost.to_string())
}

fn latency(latency: &Latency) -> String {
    if latency.count == 0 {
        return "–".into();
    }
    format!(
        "{:.1} / {:.1} / {:.1}",
        latency.p50_ms, latency.p99_ms, latency.p999_ms
    )
}
