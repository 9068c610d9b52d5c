//! Redis from the distribution's package.

use anyhow::Result;

use super::apt;
use super::command::exists;

/// Ensures that `redis-server` is installed.
pub(crate) fn redis() -> Result<()> {
    if exists("redis-server") {
        Ok(())
    } else {
        apt::install(&["redis-server"])
    }
}
