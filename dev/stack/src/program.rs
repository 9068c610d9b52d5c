//! A process of one of the product's programs, with a log. Callers can wait for lines of its
//! stdout.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::janitor::Janitor;
use crate::process::ServerProcess;

/// Number of log lines that are shown.
const SHOWN: usize = 80;

/// Returns the path of a program of the workspace: in the folder `FIRSTCOME_BIN_DIR`, otherwise
/// next to the running program.
pub fn built_program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/<profile>/deps/it-0123456789abcdef, or a program in target/<profile>
    let folder = own
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"));
    let given = std::env::var_os("FIRSTCOME_BIN_DIR").map(PathBuf::from);
    let path = given
        .as_deref()
        .or(folder)
        .context("this program has no folder")?
        .join(name);
    ensure!(
        path.is_file(),
        "{} is missing: build the whole workspace with the same profile first",
        path.display()
    );
    Ok(path)
}

/// A running program, killed on drop.
#[derive(Debug)]
pub struct Program {
    name: String,
    process: ServerProcess,
    log: PathBuf,
    stdout: watch::Receiver<Vec<String>>,
}

impl Program {
    /// Starts the program and copies its stderr and stdout to the log.
    pub fn start(name: &str, command: &mut Command, log: &Path, janitor: &Janitor) -> Result<Self> {
        let file = fs::write(log, "").and_then(|()| File::options().append(true).open(log));
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone()?);
        let mut process = ServerProcess::start(janitor, command)
            .with_context(|| format!("cannot start {name}"))?;
        let pipe = process.child.get_mut().stdout.take().context("no stdout")?;
        let (sender, stdout) = watch::channel(Vec::new());
        std::thread::spawn(move || keep_lines(pipe, file, &sender));
        Ok(Self {
            name: name.to_owned(),
            process,
            log: log.to_owned(),
            stdout,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.borrow().join("\n")
    }

    /// Returns the complete stdout after the program has ended. The pipe may have to be drained
    /// first.
    pub async fn all_stdout(&self, limit: Duration) -> Result<String> {
        let mut stdout = self.stdout.clone();
        let ended = timeout(limit, stdout.wait_for(|_| false)).await.is_ok();
        ensure!(ended, "{} still prints after {limit:?}", self.name);
        Ok(self.stdout())
    }

    /// Waits until stdout has a line with each of these beginnings, and returns the rest of each
    /// line.
    ///
    /// # Errors
    ///
    /// Fails if the program ends first, or if `limit` has passed.
    pub async fn lines<const N: usize>(
        &self,
        beginnings: [&str; N],
        limit: Duration,
    ) -> Result<[String; N]> {
        let mut stdout = self.stdout.clone();
        let all = stdout.wait_for(|lines| {
            beginnings
                .iter()
                .all(|beginning| rest(lines, beginning).is_some())
        });
        match timeout(limit, all).await {
            Ok(Ok(lines)) => {
                Ok(beginnings
                    .map(|beginning| rest(&lines, beginning).unwrap_or_default().to_owned()))
            }
            Ok(Err(_)) => bail!(
                "{} ended before it printed {beginnings:?}:\n{}",
                self.name,
                self.log_tail()
            ),
            Err(_) => bail!(
                "{} did not print {beginnings:?} within {limit:?}:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Returns the complete log so far: stderr and stdout.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// Returns the last lines of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log, SHOWN)
    }

    /// Returns the exit status, if the program has ended.
    pub fn status(&self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Sends a signal. Does nothing if the program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits until the program ends by itself.
    pub async fn ended(&self, limit: Duration) -> Result<ExitStatus> {
        let ended = self.process.wait(limit).await;
        ended.with_context(|| {
            format!(
                "{} did not end within {limit:?}:\n{}",
                self.name,
                self.log_tail()
            )
        })
    }

    /// Stops the program with SIGTERM and waits until it has ended.
    pub async fn stop(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(limit).await
    }
}

fn rest<'a>(lines: &'a [String], beginning: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(beginning))
}

/// Drains stdout to its end, so that the pipe never fills up.
fn keep_lines(pipe: ChildStdout, mut log: File, stdout: &watch::Sender<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let _ = log.write_all(format!("[stdout] {line}\n").as_bytes());
        stdout.send_modify(|lines| lines.push(line));
    }
}

/// Returns the last lines of a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = read(path);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
