//! Wall clocks, one per process, that a test can shift or stop through a preloaded library.
//! Monotonic clocks stay correct.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// The folder with the library and a file for each clock.
pub struct Clocks(TempDir);

impl Clocks {
    /// Compiles the library.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = folder.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c"))?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("libclock.so"))
            .arg(source)
            .arg("-ldl");
        ensure!(cc.status().context("cc")?.success(), "{cc:?}");
        Ok(Self(folder))
    }

    /// Creates a clock with this name. It is correct at first.
    pub fn clock(&self, name: &str) -> Result<ProcessClock> {
        let clock = ProcessClock {
            library: self.0.path().join("libclock.so"),
            offset: self.0.path().join(name),
        };
        clock.shift_ms(0)?;
        Ok(clock)
    }
}

#[derive(Debug)]
pub struct ProcessClock {
    library: PathBuf,
    offset: PathBuf,
}

impl ProcessClock {
    /// Sets the clock this many milliseconds ahead of the correct time, and lets it run if it was
    /// stopped. A negative value sets it back.
    pub fn shift_ms(&self, ms: i64) -> Result<()> {
        self.set([ms, 0])
    }

    /// Stops the clock at this time, in Unix milliseconds. 0 corrects it and lets it run again.
    pub fn stop_at_ms(&self, ms: i64) -> Result<()> {
        self.set([0, ms])
    }

    fn set(&self, numbers: [i64; 2]) -> Result<()> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.offset)?;
        file.write_all_at(&numbers.map(i64::to_ne_bytes).concat(), 0)
            .context("the clock can't be set")
    }

    /// Returns the environment variables that make a process use this clock.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FIRSTCOME_TEST_CLOCK", text(&self.offset)),
        ]
    }
}
