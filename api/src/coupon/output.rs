//! The standard output.

use std::io::Write as _;

use super::client::CommandFailure;

pub(super) fn print(text: &str) -> Result<(), CommandFailure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // The reader has closed the pipe: it has seen enough.
    written.map_err(|_| CommandFailure::OutputClosed)
}
