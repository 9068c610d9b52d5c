//! Charts as inline SVG: they take their colours from the page, so that they can be read in the dark too.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 12.0;
const HEIGHT: f64 = 280.0;
const BOTTOM: f64 = 36.0;

/// A line.
pub(super) struct Line {
    /// Its name in the legend.
    pub(super) name: String,
    /// Which of the page's colours.
    pub(super) colour: usize,
    /// Its points.
    pub(super) points: Vec<(f64, f64)>,
}

/// Text that stands in HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Horizontal bars; lengths by logarithm where they differ a thousandfold.
pub(super) fn bars(title: &str, rows: &[(String, f64, usize)], logarithmic: bool) -> String {
    let most = rows.iter().map(|row| row.1).fold(1.0, f64::max);
    let length = |value: f64| {
        let share = if logarithmic { value.max(1.0).ln_1p() / most.ln_1p() } else { value / most };
        (share * (WIDTH - 420.0)).max(1.0)
    };
    let height = 26.0 * count(rows.len()) + 8.0;
    let mut svg = open(title, height);
    for (at, (name, value, colour)) in rows.iter().enumerate() {
        let y = 26.0 * count(at) + 4.0;
        let (bar, text) = (length(*value), super::table::number(*value));
        let _ = write!(
            svg,
            r#"<text x="0" y="{:.0}" class="t">{}</text><rect x="310" y="{y:.0}" width="{bar:.1}" height="18" rx="3" class="c{colour}"/><text x="{:.1}" y="{:.0}" class="t">{text}</text>"#,
            y + 14.0,
            escape(name),
            316.0 + bar,
            y + 14.0,
        );
    }
    svg + "</svg>"
}

/// How an axis runs.
#[derive(Clone, Copy)]
pub(super) enum Scale {
    /// Evenly from 0.
    Linear,
    /// By powers of ten.
    Log,
    /// Quantiles: 0, 90, 99, 99.9 % …, evenly.
    Quantiles,
}

struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Linear => Self { scale, low: 0.0, high: high.max(1e-9) },
            Scale::Log => {
                let low = values.filter(|v| *v > 0.0).fold(high, f64::min).max(1e-3);
                Self { scale, low: low.log10().floor(), high: high.max(low * 10.0).log10().ceil() }
            }
            Scale::Quantiles => Self { scale, low: 0.0, high: 4.0 },
        }
    }

    fn at(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-3).log10(),
            Scale::Quantiles => (-(1.0 - value).max(1e-4).log10()).min(4.0),
        };
        ((place - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Marks with their words.
    fn marks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => (0..=4)
                .map(|part| {
                    let share = f64::from(part) / 4.0;
                    (share, super::table::number(share * self.high))
                })
                .collect(),
            Scale::Log => {
                #[allow(clippy::cast_possible_truncation, reason = "powers of ten")]
                let (low, high) = (self.low as i32, self.high as i32);
                (low..=high)
                    .map(|power| (self.at(10_f64.powi(power)), super::table::number(10_f64.powi(power))))
                    .collect()
            }
            Scale::Quantiles => [("0", 0.0), ("90 %", 1.0), ("99 %", 2.0), ("99.9 %", 3.0), ("slowest", 4.0)]
                .map(|(word, place)| (place / 4.0, word.to_owned()))
                .to_vec(),
        }
    }
}

/// Lines over two axes.
pub(super) fn lines(title: &str, lines: &[Line], x: (Scale, &str), y: (Scale, &str)) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::over(x.0, points().map(|point| point.0));
    let up = Axis::over(y.0, points().map(|point| point.1));
    let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let (px, py) = (|v: f64| LEFT + v * wide, |v: f64| TOP + (1.0 - v) * high);
    let mut svg = open(title, HEIGHT + 22.0 * (count(lines.len()) / 2.0).ceil());
    for (place, word) in up.marks() {
        let at = py(place);
        let _ = write!(
            svg,
            r#"<line x1="{LEFT}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}" class="g"/><text x="{:.0}" y="{:.1}" class="t" text-anchor="end">{word}</text>"#,
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
    }
    for (place, word) in across.marks() {
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.0}" class="t" text-anchor="middle">{word}</text>"#,
            px(place),
            HEIGHT - 18.0
        );
    }
    let _ = write!(
        svg,
        r#"<text x="{:.0}" y="{:.0}" class="t" text-anchor="end">{}</text><text x="{:.0}" y="{TOP}" class="t">{}</text>"#,
        WIDTH - RIGHT,
        HEIGHT - 2.0,
        escape(x.1),
        LEFT + 4.0,
        escape(y.1)
    );
    for (number, line) in lines.iter().enumerate() {
        let path: Vec<String> =
            line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", px(across.at(*a)), py(up.at(*b)))).collect();
        let (lx, ly) = (LEFT + 390.0 * count(number % 2), HEIGHT + 14.0 + 22.0 * count(number / 2));
        let _ = write!(
            svg,
            r#"<polyline points="{}" class="l c{colour}"/><rect x="{lx:.0}" y="{:.0}" width="12" height="12" class="c{colour}"/><text x="{:.0}" y="{ly:.0}" class="t">{}</text>"#,
            path.join(" "),
            ly - 11.0,
            lx + 18.0,
            escape(&line.name),
            colour = line.colour
        );
    }
    svg + "</svg>"
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_t_break_the_page() {
        let chart = bars("<x>", &[("a & b".into(), 3.0, 0)], false);
        assert!(chart.contains("&lt;x&gt;") && chart.contains("a &amp; b") && chart.ends_with("</svg>"));
    }

    #[test]
    fn axes_hold_their_values() {
        for scale in [Scale::Linear, Scale::Log, Scale::Quantiles] {
            let axis = Axis::over(scale, [0.5, 0.9, 0.99].into_iter());
            assert!(axis.at(0.5) < axis.at(0.99), "in order");
            assert!(axis.marks().iter().all(|(place, _)| (0.0..=1.0).contains(place)));
        }
    }
}
