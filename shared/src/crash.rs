//! Crash points: durable steps at which tests kill a process to check that the step can be
//! repeated.
//!
//! `FIRSTCOME_CRASH_AT=rows_committed` kills the process when it first reaches that point,
//! `rows_committed:3` the third time. The process first prints a line to stderr (`crash point
//! rows_committed`). `FIRSTCOME_STALL_AT=rows_committed:1:8000` instead blocks the thread at
//! that point for that number of milliseconds, or forever if the last number is missing. Release
//! builds contain no crash points, unless the feature `crash-points` is on.

use strum::{IntoStaticStr, VariantArray};

/// The steps at which a process can be killed. In the variables they have snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Point {
    /// API: before the admission script.
    ClaimAsked,
    /// API: Redis gave a slot; nothing is published.
    ClaimAdmitted,
    /// API: the message is handed to the producer; no delivery report yet.
    ClaimSent,
    /// API: the delivery report has arrived or timed out; no response is sent yet.
    ClaimPublished,
    /// API: MySQL has the rows of claims that Kafka did not acknowledge, or refused them; no
    /// response is sent yet.
    ClaimKept,
    /// API: MySQL has a revocation; Redis still has the claim.
    RevocationWritten,
    /// API: Redis has deleted the revoked claim; no response is sent yet.
    RevocationReleased,
    /// API: the ban has ended in MySQL; Redis still has it.
    RevocationEnded,
    /// API: MySQL has a changed allow list; Redis has the previous one.
    ListWritten,
    /// API: the attempt to write the allow list to Redis is over; no response is sent yet.
    ListFollowed,
    /// Consumer: before the transaction of a batch, or of one of its drops.
    RowsBegun,
    /// Consumer: rows are inserted; the transaction is still open.
    RowsInserted,
    /// Consumer: dead letters are written too; the transaction is still open.
    FallbackInserted,
    /// Consumer: the transaction of a batch, or of one of its drops, is committed in MySQL.
    RowsCommitted,
    /// Reconciler: the start of the run is recorded; nothing is read yet.
    RunBegun,
    /// Reconciler: Redis has closed the coupon in a new era, which MySQL does not have yet.
    EraBegun,
    /// Reconciler: before rows are inserted.
    RepairBegun,
    /// Reconciler: the keys of a drop are unlinked and its counter is set; no slot is written.
    DropLoaded,
    /// Reconciler: the slots of a drop are written; its settings are not.
    PeopleRebuilt,
    /// Reconciler: users from the waiting list have slots, but no rows yet.
    PersonPromoted,
    /// Reconciler: promises are listed as broken; Redis still shows their slots.
    BrokenListed,
    /// Reconciler: rows are inserted and their dead letters resolved; the drop is not compared
    /// again yet.
    RowReissued,
    /// Reconciler: everything is written; the gate is still closed.
    GateDue,
    /// Reconciler: admission is open; the end of the run is not recorded yet.
    GateOpened,
    /// Reconciler: the pass is over; the end of the run is not recorded yet.
    RunDone,
    /// Reconciler: the end of the run is recorded; no mail is prepared yet.
    RunRecorded,
    /// Sender: a mail is leased, but not yet sent.
    MailDue,
    /// Sender: the attempt to send a mail is over; its outcome is not recorded yet.
    MailSent,
    /// Sender: a webhook is leased, but not yet posted.
    WebhookDue,
    /// Sender: the attempt to post a webhook is over; its outcome is not recorded yet.
    WebhookSent,
}

impl Point {
    /// All points, for tests that iterate over them.
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Returns the name by which `FIRSTCOME_CRASH_AT` and `FIRSTCOME_STALL_AT` select this point.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Aborts the process if `FIRSTCOME_CRASH_AT` names this point, or blocks the thread if
/// `FIRSTCOME_STALL_AT` names it.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub fn crash_point(point: Point) {
    if wanted::CRASH.is_due(point) {
        crate::complain!("crash point {}", point.name());
        std::process::abort();
    }
    if wanted::STALL.is_due(point) {
        crate::complain!("stall point {}", point.name());
        std::thread::sleep(wanted::STALL.time());
    }
}

#[cfg(any(debug_assertions, feature = "crash-points"))]
mod wanted {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::Point;

    pub(super) static CRASH: LazyLock<WantedCrash> =
        LazyLock::new(|| WantedCrash::read("FIRSTCOME_CRASH_AT"));
    pub(super) static STALL: LazyLock<WantedCrash> =
        LazyLock::new(|| WantedCrash::read("FIRSTCOME_STALL_AT"));

    /// `name`, `name:nth` or `name:nth:milliseconds`.
    pub(super) struct WantedCrash {
        name: Option<String>,
        nth: u32,
        millis: Option<u64>,
        times: AtomicU32,
    }

    impl WantedCrash {
        fn read(variable: &str) -> Self {
            let text = std::env::var(variable).ok();
            let mut words = text.iter().flat_map(|text| text.split(':'));
            Self {
                name: words.next().map(str::to_owned),
                nth: words.next().and_then(|nth| nth.parse().ok()).unwrap_or(1),
                millis: words.next().and_then(|time| time.parse().ok()),
                times: AtomicU32::new(0),
            }
        }

        /// Whether this is the `nth` time that the requested point is reached. Only calls with a
        /// matching name count.
        pub(super) fn is_due(&self, point: Point) -> bool {
            self.name.as_deref() == Some(point.name())
                && self.times.fetch_add(1, Ordering::Relaxed) + 1 == self.nth
        }

        /// Returns how long to block.
        pub(super) fn time(&self) -> Duration {
            self.millis.map_or(Duration::MAX, Duration::from_millis)
        }
    }
}

/// Does nothing, because this build has no crash points.
#[cfg(not(any(debug_assertions, feature = "crash-points")))]
#[inline]
pub fn crash_point(_: Point) {}
