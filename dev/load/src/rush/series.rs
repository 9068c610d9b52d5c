//! The counts over time.

use std::time::Instant;

use serde::Serialize;

use crate::answer::Kind;
use crate::measure::Database;
use crate::tally::Progress;

/// More points than a chart can show are thinned out.
const MOST: usize = 2_000;

/// The counts at one instant.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Point {
    /// Seconds since the first request.
    pub at: f64,
    pub answers: u64,
    /// People admitted so far.
    pub admitted: u64,
    /// Statements that clients sent to MySQL so far, everybody's, this tool's own left out.
    pub mysql_statements: Option<u64>,
}

/// The counts over time.
#[derive(Debug)]
pub struct Series {
    pub points: Vec<Point>,
    begun: Instant,
    /// Every so many samples one is kept.
    every: u32,
    samples: u32,
}

impl Default for Series {
    fn default() -> Self {
        Self { points: Vec::new(), begun: Instant::now(), every: 1, samples: 0 }
    }
}

impl Series {
    pub(super) async fn sample(&mut self, progress: &Progress, database: Option<&mut Database>) {
        let answers = progress.total();
        if answers == 0 {
            // Connections are still being opened.
            (self.points, self.begun) = (Vec::new(), Instant::now());
        }
        self.samples += 1;
        if !self.samples.is_multiple_of(self.every) && answers > 0 {
            return;
        }
        let mysql_statements = match database {
            Some(database) => database.statements().await.ok(),
            None => None,
        };
        let at = self.begun.elapsed().as_secs_f64();
        self.points.push(Point { at, answers, admitted: progress.count(Kind::Accepted), mysql_statements });
        if self.points.len() > MOST {
            self.points = self.points.iter().copied().step_by(2).collect();
            self.every *= 2;
        }
    }

    /// Answers a second between samples at least so many seconds apart, at the middle of each span.
    pub(super) fn rate(&self, least: f64) -> Vec<(f64, f64)> {
        let mut rates = Vec::new();
        let Some(mut last) = self.points.first().copied() else { return rates };
        for point in &self.points {
            let span = point.at - last.at;
            if span >= least {
                #[allow(clippy::cast_precision_loss, reason = "a rate for people to look at")]
                rates.push((last.at + span / 2.0, (point.answers - last.answers) as f64 / span));
                last = *point;
            }
        }
        rates
    }

    /// How long it took.
    pub(super) fn seconds(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_rush_keeps_a_bounded_number_of_points() {
        let (progress, mut series) = (Progress::default(), Series::default());
        series.sample(&progress, None).await;
        for _ in 0..10_000 {
            progress.add(Kind::SoldOut);
            series.sample(&progress, None).await;
        }
        assert!((500..=MOST).contains(&series.points.len()), "{}", series.points.len());
        assert!(series.points.is_sorted_by_key(|point| point.answers));
    }

    #[test]
    fn a_rate_is_taken_over_spans() {
        let point = |at: f64, answers| Point { at, answers, admitted: 0, mysql_statements: None };
        let points = vec![point(0.0, 0), point(0.5, 100), point(1.0, 200), point(2.0, 200)];
        let series = Series { points, ..Series::default() };
        assert_eq!(series.rate(1.0), [(0.5, 200.0), (1.5, 0.0)]);
    }
}
