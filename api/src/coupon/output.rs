//! Standard output.

use std::io::Write as _;

use super::client::CommandFailure;

pub(super) fn print(text: &str) -> Result<(), CommandFailure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // Most likely, the reader of the pipe, such as `head`, has closed it.
    written.map_err(|_| CommandFailure::OutputClosed)
}
