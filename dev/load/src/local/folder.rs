//! The folder of `make run`. Only one process at a time may use it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Locks the folder for this process, and deletes the files of an earlier run.
pub fn only_one(folder: &Path) -> Result<fs::File> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("lock");
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.with_context(|| format!("cannot write {}", path.display()))?;
    if lock.try_lock().is_err() {
        let env = fs::read_to_string(folder.join("env")).unwrap_or_default();
        let api = env
            .lines()
            .find_map(|line| line.strip_prefix("API_URL="))
            .unwrap_or("an address that is not known yet");
        bail!(
            "make run is running already, at {api}: end it with Ctrl-C in its terminal, or take another --folder"
        );
    }
    for old in ["env", "mails", "logs"].map(|name| folder.join(name)) {
        let removed = if old.is_dir() {
            fs::remove_dir_all(&old)
        } else {
            fs::remove_file(&old)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", old.display()));
            }
            _ => {}
        }
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_second_run_with_the_address_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = only_one(folder.path()).unwrap();
        fs::write(
            folder.path().join("env"),
            "X='1'\nAPI_URL='http://127.0.0.1:8080'\n",
        )
        .unwrap();
        fs::create_dir(folder.path().join("mails")).unwrap();
        let refused = only_one(folder.path()).unwrap_err().to_string();
        assert!(
            refused.contains("running already, at 'http://127.0.0.1:8080'"),
            "{refused}"
        );
        assert!(
            folder.path().join("env").exists(),
            "the first one's folder is untouched"
        );
        drop(first);
        let _second = only_one(folder.path()).unwrap();
        assert!(!folder.path().join("env").exists() && !folder.path().join("mails").exists());
    }
}
