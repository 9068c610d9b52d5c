//! Writes a history during a run.

use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::event::{
    CodeAnswer, HistoryLine, RecordedEvent, RecordedOutcome, RecordedRow, RecordedScope,
};

/// Writes lines in the order of events, from any thread. Clones write to the same history. Every
/// line is passed to the writer immediately, so with an unbuffered writer, such as a file, the
/// history of a killed process can still be judged.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Inner>>);

struct Inner {
    out: Box<dyn Write + Send>,
    begun: Instant,
    ops: u64,
    failed: Option<io::Error>,
}

impl Recorder {
    /// Records into a new file.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(File::create(path)?))
    }

    /// Records into any writer.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            out: Box::new(out),
            begun: Instant::now(),
            ops: 0,
            failed: None,
        })))
    }

    /// Records a drop and its quantity. Call it again if the quantity changes: before it is raised,
    /// or after it is lowered.
    pub fn drop_is(&self, drop: u64, coupon: u64, quantity: u64, once_per: RecordedScope) {
        self.write(RecordedEvent::Drop {
            drop,
            coupon,
            quantity,
            once_per,
        });
    }

    /// Records that the window of a drop has ended. Call it once no claim can be admitted to the drop.
    pub fn closed(&self, drop: u64) {
        self.write(RecordedEvent::Closed { drop });
    }

    /// Records that a user sends a claim. Call it before the request is sent.
    #[must_use = "it records the outcome; dropped, it is recorded as unknown"]
    pub fn invoke(&self, coupon: u64, drop: Option<u64>, person: &str) -> Pending {
        self.begin(|op| RecordedEvent::Invoked {
            op,
            coupon,
            drop,
            person: person.to_owned(),
        })
    }

    /// Records that a user looks up their claim. Call it before the request is sent.
    #[must_use = "it records the outcome; dropped, it is recorded as unknown"]
    pub fn looking_up(&self, coupon: u64, person: &str) -> Pending {
        self.begin(|op| RecordedEvent::LookingUp {
            op,
            coupon,
            person: person.to_owned(),
        })
    }

    /// Records that a claim is returned or revoked. With `again`, the user may claim again
    /// afterwards. Call it before the request is sent.
    #[must_use = "it records the outcome; dropped, it is recorded as unknown"]
    pub fn revoking(&self, coupon: u64, drop: Option<u64>, person: &str, again: bool) -> Pending {
        self.begin(|op| RecordedEvent::Revoking {
            op,
            coupon,
            drop,
            person: person.to_owned(),
            again,
        })
    }

    /// Records that a coupon has an allow list, initially with these users. Call it before any user
    /// claims.
    pub fn allow_list(&self, coupon: u64, people: Vec<String>) {
        self.write(RecordedEvent::AllowList { coupon, people });
    }

    /// Records that a user is added to a coupon's allow list or removed. Call it before the request
    /// is sent.
    #[must_use = "it records the outcome; dropped, it is recorded as unknown"]
    pub fn listing(&self, coupon: u64, person: &str, on: bool) -> Pending {
        self.begin(|op| RecordedEvent::Listing {
            op,
            coupon,
            person: person.to_owned(),
            on,
        })
    }

    /// Records that an operator changes a quantity, and returns the operation. Call it before the
    /// request is sent.
    pub fn changing(&self, coupon: u64, quantity: u64) -> u64 {
        self.number(|op| RecordedEvent::Changing {
            op,
            coupon,
            quantity,
        })
    }

    /// Records that a change of a quantity was made or refused. Do not call it if that is unknown.
    pub fn changed(&self, op: u64, made: bool) {
        self.write(RecordedEvent::Changed { op, made });
    }

    /// Records that a shop uses a code, or undoes the use, and returns the operation. Call it
    /// before the request can arrive.
    pub fn code_asked(&self, code: &str, reference: &str, undo: bool) -> u64 {
        self.number(|op| RecordedEvent::CodeAsked {
            op,
            code: code.to_owned(),
            reference: reference.to_owned(),
            undo,
        })
    }

    /// Records the answer to a shop. Do not call it if the answer does not tell what was done.
    pub fn code_answered(&self, op: u64, outcome: CodeAnswer) {
        self.write(RecordedEvent::CodeAnswered { op, outcome });
    }

    /// Records the uses of a code that has a row, after the system has recovered.
    pub fn code_finally(&self, code: &str, in_use: Option<String>, undone: Vec<String>) {
        self.write(RecordedEvent::CodeFinal {
            code: code.to_owned(),
            in_use,
            undone,
        });
    }

    fn begin(&self, event: impl FnOnce(u64) -> RecordedEvent) -> Pending {
        Pending {
            recorder: self.clone(),
            op: self.number(event),
            open: true,
        }
    }

    /// Records an event with a new operation number, and returns the number.
    fn number(&self, event: impl FnOnce(u64) -> RecordedEvent) -> u64 {
        let mut inner = self.0.lock();
        inner.ops += 1;
        let op = inner.ops;
        inner.write(event(op));
        op
    }

    pub fn read(&self, drop: u64, rows: Vec<RecordedRow>) {
        self.write(RecordedEvent::Read { drop, rows });
    }

    /// Records that the system lists a promise as broken.
    pub fn broken(&self, drop: u64, person: &str, slot: Option<i64>) {
        self.write(RecordedEvent::Broken {
            drop,
            person: person.to_owned(),
            slot,
        });
    }

    /// Records all rows of a drop after the system has recovered.
    pub fn finally(&self, drop: u64, rows: Vec<RecordedRow>) {
        self.write(RecordedEvent::Final { drop, rows });
    }

    /// Checks that every line was written.
    ///
    /// # Errors
    ///
    /// Returns the first write error. The history is then incomplete and must not be judged.
    pub fn finish(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.failed.take().map_or_else(|| inner.out.flush(), Err)
    }

    fn write(&self, event: RecordedEvent) {
        self.0.lock().write(event);
    }
}

impl Inner {
    fn write(&mut self, event: RecordedEvent) {
        let at_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let written = serde_json::to_vec(&HistoryLine { at_ms, event })
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                self.out.write_all(&line)
            });
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }
}

/// An operation in progress. If it is dropped without an outcome, the outcome is recorded as
/// unknown.
#[must_use = "it records the outcome"]
pub struct Pending {
    recorder: Recorder,
    op: u64,
    open: bool,
}

impl Pending {
    /// Records the outcome.
    pub fn end(mut self, outcome: RecordedOutcome) {
        self.record(outcome);
    }

    fn record(&mut self, outcome: RecordedOutcome) {
        self.open = false;
        let op = self.op;
        self.recorder.write(match outcome {
            RecordedOutcome::Ok(answer) => RecordedEvent::Ok { op, answer },
            RecordedOutcome::Failed(reason) => RecordedEvent::Failed { op, reason },
            RecordedOutcome::Unknown(reason) => RecordedEvent::Unknown { op, reason },
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.open {
            self.record(RecordedOutcome::Unknown("abandoned".into()));
        }
    }
}
