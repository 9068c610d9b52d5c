//! Where a value stands on an axis, and what is written there.

use super::number;

/// How an axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// By powers of ten.
    Log,
    /// Quantiles, 0 to 1: 0, 90, 99, 99.9 % …, evenly.
    Quantiles,
}

/// An axis over some values.
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    step: f64,
}

/// Below this a logarithm is of no use.
const SMALLEST: f64 = 1e-3;

impl Axis {
    pub(super) fn over(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Linear => {
                let step = even_step(high.max(1e-9));
                Self { scale, low: 0.0, high: (high / step).ceil().max(1.0) * step, step }
            }
            Scale::Log => {
                let low = values.filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min).min(high.max(1.0)).max(SMALLEST);
                let high = high.max(low * 10.0).log10().ceil();
                Self { scale, low: low.log10().floor(), high, step: 1.0 }
            }
            Scale::Quantiles => Self { scale, low: 0.0, high: 4.0, step: 1.0 },
        }
    }

    /// Where a value is: 0 at the axis's beginning, 1 at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(SMALLEST).log10(),
            Scale::Quantiles => (-(1.0 - value).max(1e-4).log10()).min(4.0),
        };
        ((place - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Marks with their words.
    pub(super) fn marks(&self) -> Vec<(f64, String)> {
        if self.scale == Scale::Quantiles {
            let words = ["fastest", "90 %", "99 %", "99.9 %", "slowest"];
            return words.into_iter().zip([0.0, 0.25, 0.5, 0.75, 1.0]).map(|(word, at)| (at, word.into())).collect();
        }
        let mut marks = Vec::new();
        let mut place = self.low;
        // Half a step more: sums of steps are not exact.
        while place <= self.high + self.step / 2.0 {
            let value = if self.scale == Scale::Log { 10_f64.powf(place) } else { place };
            marks.push((self.at(value), number((value * 1e6).round() / 1e6)));
            place += self.step;
        }
        marks
    }
}

/// 1, 2 or 5 times a power of ten, so that an axis has four to ten marks.
fn even_step(high: f64) -> f64 {
    let power = 10_f64.powf((high / 4.0).log10().floor());
    [5.0, 2.0, 1.0].map(|times| times * power).into_iter().find(|step| high / step >= 4.0).unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values() {
        for scale in [Scale::Linear, Scale::Log, Scale::Quantiles] {
            let axis = Axis::over(scale, [0.5, 0.9, 0.99].into_iter());
            assert!(axis.at(0.5) < axis.at(0.99), "in order");
            assert!(axis.marks().iter().all(|(place, _)| (0.0..=1.0).contains(place)));
        }
    }

    #[test]
    fn marks_are_round_and_few() {
        let marks = |high: f64| -> Vec<String> {
            Axis::over(Scale::Linear, [high].into_iter()).marks().into_iter().map(|(_, word)| word).collect()
        };
        assert_eq!(marks(97.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(marks(0.9), ["0", "0.20", "0.40", "0.60", "0.80", "1"]);
        for high in [0.0, 3.0, 41.0, 60_000.0, 1_234_567.0] {
            assert!((2..=11).contains(&marks(high).len()), "{high}: {:?}", marks(high));
        }
    }
}
