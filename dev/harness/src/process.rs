//! A process of the product. Exceeding a time limit fails the test.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use firstcome_stack::Program;
use rustix::process::Signal;

use crate::LIMIT;

/// A running process of the product, killed on drop.
#[derive(Debug)]
pub struct Process(pub(crate) Program);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Returns the output on stdout so far.
    pub fn stdout(&self) -> String {
        self.0.stdout()
    }

    /// Returns its complete stdout once the process has ended.
    pub async fn all_stdout(&self) -> String {
        self.0.all_stdout(LIMIT).await.unwrap()
    }

    /// Returns its complete output so far, stderr and stdout. A test that waits for a line needs
    /// all of it: at level `trace` a line is among the last ones only for some milliseconds.
    pub fn log(&self) -> String {
        self.0.log()
    }

    /// Waits for a line of stdout that begins with this text and returns the rest of the line.
    /// Fails the test if the process ends first.
    pub async fn line(&self, beginning: &str) -> String {
        let [rest] = self.0.lines([beginning], LIMIT).await.unwrap();
        rest
    }

    /// Returns the exit status, if the process has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        self.0.status().unwrap()
    }

    /// Sends a signal. Does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal).unwrap();
    }

    /// Waits until the process ends by itself and returns its exit code (128 + signal if a signal
    /// ended it).
    pub async fn ended(&self, limit: Duration) -> i32 {
        let status = self.0.ended(limit).await.unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Sends SIGTERM and returns its exit code.
    pub async fn stop(&self) -> i32 {
        self.signal(Signal::TERM);
        self.ended(LIMIT).await
    }

    /// Sends SIGKILL. The process has ended when this returns.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.ended(LIMIT).await;
    }

    /// Sends SIGSTOP: the process is suspended, and its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}
