//! The output of one test's processes, printed if the test fails.

use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;

use firstcome_stack::tail;
use tempfile::TempDir;

/// Lines shown per process.
const SHOWN: usize = 80;

/// Number of processes shown, counted from the last one, because a test that starts hundreds of
/// them fails at one of the last.
const PROCESSES: usize = 24;

/// A folder with one file per process.
#[derive(Clone)]
pub(crate) struct Logs(Arc<Inner>);

struct Inner {
    dir: TempDir,
    files: Mutex<Vec<PathBuf>>,
}

impl Logs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("firstcome-system-test-")
            .tempdir()
            .expect("a temporary folder");
        Self(Arc::new(Inner {
            dir,
            files: Mutex::default(),
        }))
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.0.dir.path()
    }

    /// Returns a new file for a process with this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let mut files = self.0.files.lock();
        let path = self
            .0
            .dir
            .path()
            .join(format!("{:02}-{name}", files.len() + 1));
        files.push(path.clone());
        path
    }

    /// Copies each file into a folder.
    pub(crate) fn keep(&self, folder: &std::path::Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for path in self.0.files.lock().iter() {
            std::fs::copy(path, folder.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    /// Prints the last lines of each file to stderr, which the test runner shows for failed tests
    /// only.
    pub(crate) fn print(&self) {
        let files = self.0.files.lock();
        for path in &files[files.len().saturating_sub(PROCESSES)..] {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("--- {name}: its last lines ---\n{}", tail(path, SHOWN));
        }
    }
}
