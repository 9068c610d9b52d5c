//! Draws the README's chart of a run, light and dark, and its table.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use firstcome_load::tally::Latency;
use firstcome_load::terminal::{grouped, number, step};
use serde::Deserialize;

use super::{Comparison, DesignRun, Spread};
use crate::baselines::designs::Design;

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// The source and the targets of the README's chart and table.
#[derive(Debug, Clone, Args)]
pub struct Picture {
    /// Report of a run
    #[arg(long, default_value = "target/bench/report.json")]
    pub report: PathBuf,
    /// Folder for the charts
    #[arg(long, default_value = "docs/pictures")]
    pub out: PathBuf,
    /// Markdown file in which the table between the two markers is replaced
    #[arg(long, default_value = "README.md")]
    pub readme: PathBuf,
}

#[derive(Deserialize)]
struct PictureReport {
    comparison: Option<Comparison>,
}

/// Draws the charts and replaces the table between the markers.
pub fn draw(options: &Picture) -> Result<()> {
    let name = options.report.display();
    let text = fs::read_to_string(&options.report)
        .with_context(|| format!("{name}: written by `make bench`"))?;
    let report: PictureReport =
        serde_json::from_str(&text).with_context(|| format!("{name} has another version"))?;
    let comparison = report
        .comparison
        .with_context(|| format!("{name} has no designs: it is from a partial run"))?;
    fs::create_dir_all(&options.out)?;
    let svg = drawn(&comparison);
    for (file, dark) in [("designs-light.svg", false), ("designs-dark.svg", true)] {
        let path = options.out.join(file);
        fs::write(&path, standalone(&svg, dark))?;
        step(format!("wrote {}", path.display()));
    }
    let readme = fs::read_to_string(&options.readme)?;
    fs::write(&options.readme, put(&readme, &comparison.table())?)?;
    step(format!("the table is in {}", options.readme.display()));
    Ok(())
}

/// Replaces the text between the markers.
fn put(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text
        .split_once(BEGIN)
        .with_context(|| format!("no mark {BEGIN}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("no mark {END}"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

/// Each design takes one line for its name and one for its bar and numbers. The chart is narrow
/// enough for its text to be readable on a phone.
const WIDTH: f64 = 440.0;
const ROW: f64 = 46.0;
const HEAD: f64 = 48.0;
/// Length of the longest bar. Its number is to the right of it, followed by two columns of numbers.
const BAR: f64 = 180.0;
const OVER: f64 = 254.0;
const LOST: f64 = 342.0;

/// Colours of text, muted text, background, good, bad, bars and Firstcome's bar, light and dark.
const COLOURS: [[&str; 7]; 2] = [
    [
        "#1b1f24", "#5b6570", "#fff", "#1a7f37", "#b3261e", "#8a939d", "#1a8f3c",
    ],
    [
        "#e6e9ec", "#9aa4ae", "#14181c", "#57c878", "#ff8a80", "#78828c", "#4bd06f",
    ],
];

/// Returns the chart with its colours inlined, so that it needs no surrounding page.
fn standalone(svg: &str, dark: bool) -> String {
    let [text, soft, back, good, bad, bar, own] = COLOURS[usize::from(dark)];
    let style = format!(
        "<style>.t{{font:12.5px system-ui,-apple-system,sans-serif;fill:{soft}}}\
         .v{{fill:{text};font-weight:600}}.good{{fill:{good};font-weight:600}}.bad{{fill:{bad};font-weight:600}}\
         .bar{{fill:{bar}}}.own{{fill:{own}}}.line{{stroke:{text};stroke-width:1.5}}</style><rect width=\"100%\" height=\"100%\" fill=\"{back}\"/>"
    );
    svg.replacen("</title>", &format!("</title>{style}"), 1) + "\n"
}

/// Draws requests per second as bars, each with a thin line from its slowest turn to its fastest,
/// next to the errors of the design.
fn drawn(comparison: &Comparison) -> String {
    let mut bars: Vec<Bar<'_>> = comparison.runs.iter().map(Bar::of).collect();
    bars.extend(comparison.nothing.as_ref().map(|nothing| Bar {
        name: "a route that does nothing".to_owned(),
        rate: nothing.tally.per_second,
        spread: Some(nothing.spread),
        run: None,
    }));
    let fastest = |bar: &Bar<'_>| bar.spread.map_or(bar.rate, |spread| spread.1);
    let scale = BAR / bars.iter().map(fastest).fold(1.0, f64::max);
    let height = HEAD + ROW * f64::from(u32::try_from(bars.len()).unwrap_or(0));
    let title = format!(
        "{} requests on {} coupons: requests per second, rows too many or too few, and promises without a row",
        grouped(comparison.size.requests.into()),
        comparison.size.quantity
    );
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#
    );
    for (x, first, second) in [
        (4.0, "requests per second", "more is better"),
        (
            OVER,
            "over-issued",
            &format!("of {}", comparison.size.quantity),
        ),
        (LOST, "broken", "calm / crash"),
    ] {
        words(&mut svg, "t v", [x, 16.0], first);
        words(&mut svg, "t", [x, 32.0], second);
    }
    for (at, bar) in (0_u32..).zip(&bars) {
        bar.draw(HEAD + ROW * f64::from(at), &mut svg, scale);
    }
    svg + "</svg>"
}

struct Bar<'a> {
    name: String,
    rate: f64,
    spread: Option<Spread>,
    run: Option<&'a DesignRun>,
}

impl<'a> Bar<'a> {
    fn of(run: &'a DesignRun) -> Self {
        let name = format!("{} · {}", run.design.word(), run.design.title());
        Self {
            name,
            rate: run.tally.per_second,
            spread: run.spread,
            run: Some(run),
        }
    }

    fn draw(&self, y: f64, svg: &mut String, scale: f64) {
        let own = self.run.is_some_and(|run| run.design == Design::H);
        words(
            svg,
            if own { "t v" } else { "t" },
            [4.0, y + 14.0],
            &self.name,
        );
        let length = (self.rate * scale).max(1.0);
        let class = if own { "own" } else { "bar" };
        let _ = write!(
            svg,
            r#"<rect x="4" y="{:.0}" width="{length:.1}" height="16" rx="3" class="{class}"/>"#,
            y + 20.0
        );
        let mut end = length;
        if let Some(Spread(least, most)) = self.spread {
            let from = 4.0 + least * scale;
            let to = 4.0 + most * scale;
            let y = y + 28.0;
            let _ = write!(svg, r#"<path d="M{from:.1} {y:.0}H{to:.1}" class="line"/>"#);
            end = length.max(most * scale);
        }
        words(
            svg,
            "t v",
            [end + 9.0, y + 33.0],
            &number(self.rate.round()),
        );
        if let Some(run) = self.run {
            judged(svg, [OVER, y + 33.0], &[over(run)]);
            judged(
                svg,
                [LOST, y + 33.0],
                &[run.promised_without_row.to_string(), crashed(run)],
            );
        }
    }
}

/// Returns `0`, or the number of rows above or below the quantity.
fn over(run: &DesignRun) -> String {
    match (run.too_many, run.too_few) {
        (0, 0) => "0".into(),
        (0, few) => format!("{few} too few"),
        (many, _) => format!("{many} too many"),
    }
}

/// Returns the largest number of promises that a crash broke.
fn crashed(run: &DesignRun) -> String {
    let most = run.lost_by_consumer_kill.max(run.lost_by_mysql_crash);
    most.map_or_else(|| "–".into(), |lost| lost.to_string())
}

fn judged(svg: &mut String, [x, y]: [f64; 2], parts: &[String]) {
    let _ = write!(svg, r#"<text x="{x:.0}" y="{y:.0}" class="t">"#);
    for (at, part) in parts.iter().enumerate() {
        let class = match part.as_str() {
            "0" => "good",
            "–" => "t",
            _ => "bad",
        };
        let between = if at > 0 { " / " } else { "" };
        let _ = write!(svg, r#"{between}<tspan class="{class}">{part}</tspan>"#);
    }
    svg.push_str("</text>");
}

fn words(svg: &mut String, class: &str, [x, y]: [f64; 2], text: &str) {
    let _ = write!(
        svg,
        r#"<text x="{x:.0}" y="{y:.0}" class="{class}">{text}</text>"#
    );
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let latency = |count: u64, p50: f64| {
            serde_json::json!({
                "count": count, "p50_ms": p50, "p90_ms": 10.0, "p99_ms": 12.0, "p999_ms": 13.0, "max_ms": 14.0,
            })
        };
        let tally = serde_json::json!({
            "people": 1_000, "requests": 2_000, "seconds": 0.1, "per_second": 20_000.0, "answers": {"accepted": 100},
            "admitted": 100, "not_queued": 0, "gave_up": 0, "late": 0, "unclear": null, "latency": latency(100, 1.5),
            "winners": latency(100, 1.5), "others": latency(0, 0.0), "contradictions": [], "holders_denied": 0,
            "cpu_seconds": 0.1,
        });
        let run = |design: &str, rows: u32, lost: Option<u32>| {
            serde_json::json!({
                "design": design, "tally": tally, "spread": [18_500.0, 21_000.0], "rows": rows, "too_many": rows - 100, "too_few": 0, "twice": 0,
                "promised_without_row": 0, "lost_by_consumer_kill": lost, "lost_by_mysql_crash": lost,
                "cost": {"mysql_statements": 9, "mysql_cpu": 0.1, "redis_commands": 3, "redis_by_command": {},
                         "redis_cpu": 0.1, "kafka_cpu": 0.1},
            })
        };
        let comparison = serde_json::json!({
            "size": {"requests": 2_000, "quantity": 100, "connections": 64, "killed": 300}, "cores": 2,
            "nothing": {"tally": tally, "spread": [19_000.0, 20_500.0]},
            "runs": [run("d", 114, None), run("h", 100, Some(0))],
        });
        serde_json::from_value(comparison).unwrap()
    }

    #[test]
    fn picture_and_table_show_the_errors_of_each_design() {
        let comparison = comparison();
        let svg = standalone(&drawn(&comparison), true);
        assert!(
            svg.contains(r#"class="bad">14 too many<"#) && svg.contains(r#"class="good">0<"#),
            "{svg}"
        );
        // A phone is 390 px wide. At this width, letters of 12.5 px are still 11 px high.
        assert!(
            svg.contains(r#"viewBox="0 0 440 "#) && svg.matches(r#"class="line""#).count() == 3,
            "{svg}"
        );
        assert!(
            svg.contains("h · Firstcome") && svg.contains("a route that does nothing"),
            "{svg}"
        );
        let table = table(&comparison);
        assert!(
            table.contains(
                "| d SELECT … FOR UPDATE on the stock row | 20,000 (18,500–21,000) | 1.50 · 12 | – | **114** | 0 | – · – |"
            ),
            "{table}"
        );
        assert!(
            table.contains(
                "| **h Firstcome** | **20,000 (18,500–21,000)** | 1.50 · 12 | – | 100 | 0 | 0 · 0 |"
            ),
            "{table}"
        );
    }

    #[test]
    fn replaces_only_the_text_between_the_markers() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nz\n");
        assert_eq!(
            put(&text, "new\n").unwrap(),
            format!("a\n{BEGIN}\nnew\n{END}\nz\n")
        );
        assert!(put("no marks", "new").is_err());
    }
}
