//! Statistics of the cycles at each point.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;

use firstcome_shared::crash::Point;

/// The result of one cycle.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeenCycle {
    /// Processes that died at the point.
    pub(super) fired: usize,
    /// Promises that were compared with the rows.
    pub(super) promises: usize,
    /// Promises without their row.
    pub(super) broken: usize,
    /// Rows beyond the quantity, and additional rows of the same user.
    pub(super) over_issued: usize,
}

/// Cycles so far, by point.
#[derive(Debug, Default)]
pub(super) struct CycleTally(Mutex<HashMap<Point, (usize, SeenCycle)>>);

impl CycleTally {
    pub(super) fn add(&self, point: Point, seen: SeenCycle) {
        let mut points = self.0.lock();
        let (cycles, sum) = points.entry(point).or_default();
        *cycles += 1;
        sum.fired += seen.fired;
        sum.promises += seen.promises;
        sum.broken += seen.broken;
        sum.over_issued += seen.over_issued;
        if *cycles % 10 == 0 {
            eprintln!("{}: {cycles} cycles", point.name());
        }
    }

    /// Checks that every crash point had all its cycles and crashed twice in each, and that no
    /// promise is broken.
    pub(super) fn judge(&self, cycles: usize) {
        let points = self.0.lock();
        for point in Point::ALL {
            let (done, sum) = points.get(point).copied().unwrap_or_default();
            assert_eq!(
                (done, sum.fired),
                (cycles, 2 * cycles),
                "{}: cycles, and times it fired",
                point.name()
            );
            assert!(sum.promises > 0, "{}: no promise was checked", point.name());
            assert_eq!(
                (sum.broken, sum.over_issued),
                (0, 0),
                "{}: broken, over-issued",
                point.name()
            );
        }
    }
}

impl fmt::Display for CycleTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = self.0.lock();
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cycles: usize, sum: SeenCycle| {
            let SeenCycle {
                fired,
                promises,
                broken,
                over_issued,
            } = sum;
            writeln!(
                f,
                "{name:<18}{cycles:>7}{fired:>7}{promises:>10}{broken:>8}{over_issued:>13}"
            )
        };
        writeln!(
            f,
            "\n{:<18}{:>7}{:>7}{:>10}{:>8}{:>13}",
            "point", "cycles", "fired", "promises", "broken", "over-issued"
        )?;
        let mut cycles = 0;
        let mut all = SeenCycle::default();
        for point in Point::ALL {
            let (done, sum) = points.get(point).copied().unwrap_or_default();
            row(f, point.name(), done, sum)?;
            cycles += done;
            all.fired += sum.fired;
            all.promises += sum.promises;
            all.broken += sum.broken;
            all.over_issued += sum.over_issued;
        }
        row(f, "all", cycles, all)
    }
}
