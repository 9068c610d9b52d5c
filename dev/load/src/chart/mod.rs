//! Charts as inline SVG that need no network and no script, for the reports of the load tool and of
//! the comparison. They take their colours from the page ([`page`]), so that they can be read in
//! the dark too.

mod axis;
mod page;

use std::fmt::Write as _;

use axis::Axis;
pub use axis::Scale;
pub use page::{OWN, page, standalone};

use crate::terminal::grouped;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 30.0;
const HEIGHT: f64 = 300.0;
const BOTTOM: f64 = 46.0;
/// Rows of bars and of the legend.
const ROW: f64 = 24.0;
/// Where bars begin, and how much is kept free behind the longest for its number.
const NAMES: f64 = 316.0;
const NUMBERS: f64 = 90.0;

#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Which of the page's colours.
    pub colour: usize,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
pub struct Bar {
    /// Its name, left of it.
    pub name: String,
    /// Which of the page's colours.
    pub colour: usize,
    pub value: f64,
}

/// Text that stands in HTML or SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with as many digits as matter.
pub fn number(value: f64) -> String {
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "positive and rounded")]
    match value {
        v if v < 0.0 => format!("-{}", number(-v)),
        v if v >= 1_000.0 => grouped(v.round() as u64),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Horizontal bars, each with its number; by powers of ten where they differ a thousandfold.
pub fn bars(title: &str, unit: &str, rows: &[Bar], logarithmic: bool) -> String {
    let most = rows.iter().map(|row| row.value).fold(1.0, f64::max);
    let length = |value: f64| {
        let share = if logarithmic { value.max(0.0).ln_1p() / most.ln_1p() } else { value / most };
        (share * (WIDTH - NAMES - NUMBERS)).max(1.0)
    };
    let mut svg = open(title, ROW * count(rows.len()) + 28.0);
    for (at, row) in rows.iter().enumerate() {
        let (y, bar) = (ROW * count(at) + 2.0, length(row.value));
        text(&mut svg, NAMES - 10.0, y + 14.0, "t e", &row.name);
        let colour = row.colour;
        let _ =
            write!(svg, r#"<rect x="{NAMES}" y="{y:.0}" width="{bar:.1}" height="18" rx="3" class="f c{colour}"/>"#);
        text(&mut svg, NAMES + bar + 6.0, y + 14.0, "t v", &number(row.value));
    }
    let scale = if logarithmic { ", lengths by powers of ten" } else { "" };
    text(&mut svg, NAMES, ROW * count(rows.len()) + 20.0, "t", &format!("{unit}{scale}"));
    svg + "</svg>"
}

/// Lines over two axes; each axis has its scale and its label with the unit.
pub fn lines(title: &str, lines: &[Line], x: (Scale, &str), y: (Scale, &str)) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::over(x.0, points().map(|point| point.0));
    let up = Axis::over(y.0, points().map(|point| point.1));
    let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let (px, py) = (|v: f64| LEFT + v * wide, |v: f64| TOP + (1.0 - v) * high);
    let mut svg = open(title, HEIGHT + ROW * (count(lines.len()) / 2.0).ceil() + 4.0);
    for (place, word) in up.marks() {
        let at = py(place);
        let _ = write!(svg, r#"<line x1="{LEFT}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}" class="g"/>"#, WIDTH - RIGHT);
        text(&mut svg, LEFT - 8.0, at + 4.0, "t e", &word);
    }
    for (place, word) in across.marks() {
        let (at, foot) = (px(place), HEIGHT - BOTTOM);
        let _ = write!(svg, r#"<line x1="{at:.1}" x2="{at:.1}" y1="{foot}" y2="{:.0}" class="g"/>"#, foot + 5.0);
        text(&mut svg, at, foot + 18.0, "t m", &word);
    }
    text(&mut svg, LEFT + wide / 2.0, HEIGHT - 10.0, "t m", x.1);
    text(&mut svg, 8.0, 14.0, "t", y.1);
    for line in lines {
        let path: Vec<String> =
            line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", px(across.at(*a)), py(up.at(*b)))).collect();
        let _ = write!(svg, r#"<polyline points="{}" class="l c{}"/>"#, path.join(" "), line.colour);
    }
    legend(&mut svg, lines);
    svg + "</svg>"
}

fn legend(svg: &mut String, lines: &[Line]) {
    for (at, line) in lines.iter().enumerate() {
        let (x, y) = (LEFT + 390.0 * count(at % 2), HEIGHT + 14.0 + ROW * count(at / 2));
        let (top, colour) = (y - 10.0, line.colour);
        let _ = write!(svg, r#"<rect x="{x:.0}" y="{top:.0}" width="12" height="12" rx="2" class="f c{colour}"/>"#);
        text(svg, x + 18.0, y, "t", &line.name);
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{}</text>"#, escape(words));
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#
    )
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_t_break_the_page() {
        let bar = Bar { name: "a & b".into(), value: 3.0, colour: 0 };
        let chart = bars("<x>", "requests a second", &[bar], false);
        assert!(chart.contains("&lt;x&gt;") && chart.contains("a &amp; b") && chart.ends_with("</svg>"));
    }

    #[test]
    fn both_axes_are_labelled_also_where_nothing_was_seen() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(0.0, 1.0), (2.0, 30.0)]] {
            let line = Line { name: "one".into(), colour: 1, points };
            let chart = lines("t", &[line], (Scale::Linear, "seconds"), (Scale::Log, "ms"));
            assert!(chart.contains(">seconds<") && chart.contains(">ms<") && !chart.contains("NaN"), "{chart}");
        }
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, text) in [(0.0, "0"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12_345.6, "12,346")] {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(-3.5), "-3.50");
    }
}
