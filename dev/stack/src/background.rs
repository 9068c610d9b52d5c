//! The background runtime for mail sinks and proxies.
//!
//! Tests share one stack in a static, while every `#[tokio::test]` has a separate runtime. A task
//! spawned on the first test's runtime would die with that test, so sinks and proxies run on a
//! runtime that belongs to the process.

use std::future::Future;
use std::io;
use std::sync::LazyLock;

use anyhow::{Result, anyhow};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("firstcome-stack")
        .enable_all()
        .build()
});

/// Spawns a task, which runs to its end even if the caller's runtime ends first.
pub(crate) fn spawn<F>(task: F) -> Result<JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let runtime = RUNTIME
        .as_ref()
        .map_err(|error| anyhow!("no background runtime: {error}"))?;
    Ok(runtime.spawn(task))
}
