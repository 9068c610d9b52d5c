//! Crash points: the durable steps at which a test lets a process die, to see that each may be run twice.
//!
//! `FIRSTCOME_CRASH_AT=rows_committed` kills the process the first time it gets there, `rows_committed:3` the third time. It says
//! so on stderr first (`crash point rows_committed`). In release builds a point is nothing at all, unless the feature
//! `crash-points` is on.

macro_rules! points {
    ($($variant:ident $name:literal $doc:literal),+ $(,)?) => {
        /// Where a process can be made to die.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $(#[doc = $doc] $variant,)+
        }

        impl Point {
            /// All of them, for tests that go through every one.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As `FIRSTCOME_CRASH_AT` has it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

points! {
    ClaimAsked "claim_asked" "API: before the admission script.",
    ClaimAdmitted "claim_admitted" "API: Redis gave a slot; nothing is published.",
    ClaimSent "claim_sent" "API: the message is handed to the producer; no delivery report yet.",
    ClaimPublished "claim_published" "API: the delivery report came, or did not in time; nobody is told yet.",
    ClaimKept "claim_kept" "API: the backup table keeps what Kafka has not acknowledged; nobody is told yet.",
    RowsBegun "rows_begun" "Consumer: before the transaction of a batch.",
    RowsInserted "rows_inserted" "Consumer: rows are inserted, the transaction is open.",
    BackupInserted "backup_inserted" "Consumer: failed claims are kept too, the transaction is open.",
    RowsCommitted "rows_committed" "Consumer: rows are committed, offsets are not.",
    OffsetsCommitted "offsets_committed" "Consumer: offsets are committed.",
    RunBegun "run_begun" "Reconciler: the run is noted, nothing is looked at.",
    RepairBegun "repair_begun" "Reconciler: before a repair, or a batch of one kind.",
    RepairDone "repair_done" "Reconciler: after it; the next look has not come.",
    PeopleRebuilt "people_rebuilt" "Reconciler: people are back in a lost drop, which is not loaded.",
    DropLoaded "drop_loaded" "Reconciler: the lost drop is loaded, its counter is not settled.",
    PersonMoved "person_moved" "Reconciler: somebody has another slot, and no row for it.",
    PersonPromoted "person_promoted" "Reconciler: people from the waiting list have slots, and no rows.",
    BrokenListed "broken_listed" "Reconciler: a promise is listed as broken, its slot is not taken back.",
    RowReissued "row_reissued" "Reconciler: a failed claim has its row and is not resolved.",
    LicenceDue "licence_due" "Reconciler: every drop was verified, the licence is not granted.",
    LicenceGranted "licence_granted" "Reconciler: admission is open, the run is not recorded.",
    RunDone "run_done" "Reconciler: the pass is over, the run is not recorded.",
    RunRecorded "run_recorded" "Reconciler: the run is recorded, no mail is prepared.",
    MailDue "mail_due" "Sender: a mail is leased and not handed over.",
    MailSent "mail_sent" "Sender: the mail server took it, and it is not marked as sent.",
}

/// Dies here, if `FIRSTCOME_CRASH_AT` says so.
#[cfg(any(debug_assertions, feature = "crash-points"))]
pub fn crash_point(point: Point) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let wanted = std::env::var("FIRSTCOME_CRASH_AT").ok()?;
        let (name, nth) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    static TIMES: AtomicU32 = AtomicU32::new(0);

    let Some((name, nth)) = WANTED.as_ref() else { return };
    if name == point.name() && TIMES.fetch_add(1, Ordering::Relaxed) + 1 == *nth {
        eprintln!("crash point {name}");
        std::process::abort();
    }
}

/// Nothing in a release build.
#[cfg(not(any(debug_assertions, feature = "crash-points")))]
#[inline]
pub fn crash_point(_: Point) {}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::collections::HashSet;
    use std::process::Command;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: HashSet<_> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[test]
    #[ignore = "the process that dies, started by the next test"]
    fn passes_two_points() {
        crash_point(Point::ClaimAdmitted);
        println!("once");
        crash_point(Point::ClaimSent);
        crash_point(Point::ClaimAdmitted);
        println!("twice");
    }

    #[test]
    fn the_process_dies_where_and_when_it_is_told() {
        let child = |crash_at: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "crash::tests::passes_two_points", "--ignored", "--nocapture"]);
            let ended = command.env("FIRSTCOME_CRASH_AT", crash_at).output().unwrap();
            let told = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
            (ended.status.success(), told)
        };
        let (lives, told) = child("claim_admitted:2");
        assert!(!lives && told.contains("once") && !told.contains("twice"), "{told}");
        assert!(told.contains("crash point claim_admitted"), "{told}");
        assert!(!child("claim_sent").0);
        let (lives, told) = child("mail_sent");
        assert!(lives && told.contains("twice"), "{told}");
    }
}
