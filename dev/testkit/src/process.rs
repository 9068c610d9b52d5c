//! One of our processes: started, listened to, signalled, waited for.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use firstcome_stack::Janitor;
use rustix::process::{Pid, Signal, kill_process};

use crate::eventually;
use crate::logs::{Logs, tail};
use crate::wait::{LIMIT, eventually_some};

/// `Drop` does not run when the owner is killed: the janitor kills what is left then.
static JANITOR: LazyLock<Janitor> = LazyLock::new(|| Janitor::start().expect("sh can be started"));

/// A running process of the product. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: u32,
    log: PathBuf,
    stdout: Arc<Stdout>,
}

#[derive(Debug, Default)]
struct Stdout {
    lines: Mutex<Vec<String>>,
    ended: AtomicBool,
}

/// The program of this name: in the folder `FIRSTCOME_BIN_DIR`, else as it was built beside the
/// test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("FIRSTCOME_BIN_DIR").map_or_else(beside_the_test, PathBuf::from);
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built; run `cargo build --workspace` first", path.display());
    path
}

fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("the test knows where it is");
    // target/<profile>/deps/it-0123456789abcdef, or a program in target/<profile>
    let folder = test.parent().expect("a program lives in a folder");
    let above = if folder.ends_with("deps") { folder.parent() } else { None };
    above.unwrap_or(folder).to_owned()
}

impl Process {
    /// Starts `program args` with exactly this environment.
    pub(crate) fn start(logs: &Logs, program: &str, args: &[&str], env: &BTreeMap<String, String>) -> Self {
        let name = format!("{program}-{}", args.first().copied().unwrap_or("run"));
        let log = logs.file(&name);
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut child = Command::new(binary(program))
            .args(args)
            .env_clear()
            .envs(env)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone().expect("a log file"))
            // Its own process group, which the janitor kills; Ctrl-C is for the owner.
            .process_group(0)
            .spawn()
            .expect("the program can be started");
        let pid = child.id();
        JANITOR.adopt(pid).expect("the janitor hears of it");
        let stdout = Arc::new(Stdout::default());
        let pipe = child.stdout.take().expect("stdout is piped");
        let kept = Arc::clone(&stdout);
        std::thread::spawn(move || keep_lines(pipe, file, &kept));
        Self { name, child: Mutex::new(child), pid, log, stdout }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it printed to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.lines.lock().join("\n")
    }

    /// All that it printed to stdout, once it has ended: the pipe may hold some of it for an
    /// instant longer.
    pub async fn all_stdout(&self) -> String {
        let what = format!("the end of what {} prints", self.name);
        eventually(&what, LIMIT, async || self.stdout.ended.load(Ordering::Acquire)).await;
        self.stdout()
    }

    /// The end of what it said, stderr and stdout.
    pub fn log(&self) -> String {
        tail(&self.log)
    }

    /// Waits for a line of stdout that begins so, and gives the rest of it. Fails the test if the
    /// process ends first.
    pub async fn line(&self, beginning: &str) -> String {
        let found = |text: &str| text.lines().find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
        eventually_some(&format!("{} prints `{beginning}…`", self.name), LIMIT, async || {
            // Asked first: a process that printed and ended has printed.
            let status = self.status();
            let line = found(&self.stdout());
            assert!(line.is_some() || status.is_none(), "{} ended ({status:?}):\n{}", self.name, self.log());
            line.ok_or_else(|| format!("its log says:\n{}", self.log()))
        })
        .await
    }

    /// The exit status, once it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock();
        child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal. Nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child.lock();
        if matches!(child.try_wait(), Ok(None)) {
            let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).expect("a process number");
            kill_process(pid, signal).expect("our own process can be signalled");
        }
    }

    /// Waits until it ends by itself, and gives its exit code (128 + signal where one ended it).
    pub async fn ended(&self, limit: Duration) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let mut status = None;
        eventually(&format!("{} ends", self.name), limit, async || {
            status = self.status();
            status.is_some()
        })
        .await;
        let status = status.expect("it has ended");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// SIGTERM, then its exit code.
    pub async fn stop(&self) -> i32 {
        self.signal(Signal::TERM);
        self.ended(LIMIT).await
    }

    /// SIGKILL; it is gone when this returns.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.ended(LIMIT).await;
    }

    /// SIGSTOP: it holds still, its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
        let _ = JANITOR.forget(self.pid);
    }
}

fn keep_lines(pipe: ChildStdout, mut log: File, stdout: &Stdout) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let _ = writeln!(log, "[stdout] {line}");
        stdout.lines.lock().push(line);
    }
    stdout.ended.store(true, Ordering::Release);
}
