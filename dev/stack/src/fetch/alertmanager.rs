//! Alertmanager: the distribution's own package.

use anyhow::Result;

use super::apt;
use super::command::exists;

/// Sees to it that `prometheus-alertmanager` is there.
pub(crate) fn alertmanager() -> Result<()> {
    if exists("prometheus-alertmanager") { Ok(()) } else { apt::install(&["prometheus-alertmanager"]) }
}
