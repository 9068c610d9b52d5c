//! The output of one system's processes, printed if its test fails.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use firstcome_stack::tail;
use tempfile::TempDir;

/// Maximum number of lines shown per process.
const SHOWN: usize = 80;

/// Maximum number of processes shown: those that were started last, because a test that starts
/// hundreds of processes usually fails at one of the last.
const PROCESSES: usize = 24;

/// A folder with one file per process.
#[derive(Debug)]
pub(crate) struct Logs {
    folder: PathBuf,
    files: Mutex<Vec<PathBuf>>,
    _temporary: TempDir,
}

impl Logs {
    /// Without a folder, the files are in a temporary one.
    pub(crate) fn new(folder: Option<&Path>) -> Result<Self> {
        let temporary = TempDir::with_prefix("firstcome-system-")?;
        let folder = folder.unwrap_or(temporary.path()).to_owned();
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            files: Mutex::default(),
            _temporary: temporary,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a new file for a process with this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let mut files = self.files.lock();
        let name = format!("{:02}-{name}.log", files.len() + 1);
        files.push(self.folder.join(name));
        files[files.len() - 1].clone()
    }

    /// Copies each file into a folder.
    pub(crate) fn keep(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for path in self.files.lock().iter() {
            std::fs::copy(path, folder.join(path.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

/// If the test fails, prints the last lines of the newest files to stderr.
impl Drop for Logs {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let files = self.files.lock();
        for path in &files[files.len().saturating_sub(PROCESSES)..] {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("--- {name}: its last lines ---\n{}", tail(path, SHOWN));
        }
    }
}
