//! Prometheus and Alertmanager: the distribution's own packages.

use anyhow::Result;

use super::apt;
use super::command::exists;

/// Sees to it that `prometheus-alertmanager` is there.
pub(crate) fn alertmanager() -> Result<()> {
    if exists("prometheus-alertmanager") {
        Ok(())
    } else {
        apt::install(&["prometheus-alertmanager"])
    }
}

/// Sees to it that `prometheus` and `promtool` are there.
pub(crate) fn prometheus() -> Result<()> {
    if exists("prometheus") && exists("promtool") {
        Ok(())
    } else {
        apt::install(&["prometheus"])
    }
}
