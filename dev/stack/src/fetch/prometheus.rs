//! Prometheus from the distribution's package.

use anyhow::Result;

use super::apt;
use super::command::exists;

/// Ensures that `prometheus` and `promtool` are installed.
pub(crate) fn prometheus() -> Result<()> {
    if exists("prometheus") && exists("promtool") {
        Ok(())
    } else {
        apt::install(&["prometheus"])
    }
}
