//! Records the claims, revocations and changes of allow lists of a world as JSON lines.

use std::path::{Path, PathBuf};

use firstcome_oracle::{HistoryLine, RecordedEvent, Recorder};

/// The requests and answers recorded so far.
pub(crate) struct RecordedClaims {
    pub(crate) recorder: Recorder,
    path: PathBuf,
}

impl RecordedClaims {
    /// Creates a new file in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("history.jsonl");
        Self {
            recorder: Recorder::create(&path).expect("a history"),
            path,
        }
    }

    /// Returns the recorded claims and revocations of one coupon, and their outcomes.
    pub(crate) fn of(&self, coupon: u64) -> Vec<RecordedEvent> {
        self.recorder.finish().expect("a whole history");
        let text = std::fs::read_to_string(&self.path).expect("a history");
        let mut asked = std::collections::HashSet::new();
        let lines = text.lines().map(|line| {
            serde_json::from_str::<HistoryLine>(line)
                .expect("a line of a history")
                .event
        });
        lines
            .filter(|event| match event {
                RecordedEvent::Invoked { op, coupon: of, .. }
                | RecordedEvent::Revoking { op, coupon: of, .. } => {
                    *of == coupon && asked.insert(*op)
                }
                RecordedEvent::Ok { op, .. }
                | RecordedEvent::Failed { op, .. }
                | RecordedEvent::Unknown { op, .. } => asked.contains(op),
                _ => false,
            })
            .collect()
    }
}
