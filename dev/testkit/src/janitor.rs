//! No process outlives the tests: `Drop` does not run when the test binary is killed, so a shell waits at the end of a pipe
//! and kills what is left.

use parking_lot::Mutex;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;

/// stdin brings "+PID" (started) and "-PID" (waited for: the number may be another's now), and ends with the test binary.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
alive=' '
while read -r line; do
    case $line in
        +*) alive="$alive${line#+} " ;;
        -*) pid=${line#-}; alive="${alive%% "$pid" *} ${alive#* "$pid" }" ;;
    esac
done
for pid in $alive; do kill -9 "$pid" 2>/dev/null; done
"#;

#[allow(clippy::zombie_processes)] // it ends after us, by design
static PIPE: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C reaches the foreground group; this shell must outlive it.
        .process_group(0)
        .spawn()
        .expect("sh can be started");
    Mutex::new(shell.stdin.take().expect("stdin is piped"))
});

pub(crate) fn adopt(pid: u32) {
    tell(&format!("+{pid}\n"));
}

pub(crate) fn forget(pid: u32) {
    tell(&format!("-{pid}\n"));
}

fn tell(line: &str) {
    let mut pipe = PIPE.lock();
    // Without the shell, `Drop` still kills in every ordinary case.
    let _ = pipe.write_all(line.as_bytes());
}
