//! Summary statistics of several measurements.

use std::fmt;

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The ratios of measurements that were taken alternately.
pub(super) struct Ratios {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Ratios {
    pub(super) fn of(own: &[f64], other: &[f64]) -> Self {
        let ratios: Vec<f64> = own
            .iter()
            .zip(other)
            .map(|(own, other)| own / other)
            .collect();
        let (least, most) = spread(&ratios);
        Self {
            median: median(ratios),
            least,
            most,
        }
    }
}

/// Formats the range for a note.
impl fmt::Display for Ratios {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} to {:.2}", self.least, self.most)
    }
}

/// Returns the smallest and the largest value.
pub(super) fn spread(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, 0.0), |(least, most), value| {
            (least.min(*value), most.max(*value))
        })
}
