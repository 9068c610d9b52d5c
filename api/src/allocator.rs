//! Settings of the allocator. mimalloc reads them from the environment before `main` runs, so a process that was started
//! without them starts itself once more.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::{env, io};

/// What is set, unless whoever starts the process has set it: memory that is not needed any more goes back to the system at
/// once and not after a second, and there are no pages of 2 MB for a few kB in use. What that is worth: docs/PERFORMANCE.md.
const SETTINGS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "0"), ("MIMALLOC_ALLOW_THP", "0")];

/// Sees to it that the settings hold: comes back where they do, else this process (its number, arguments, files) goes on as the same
/// program started anew with them.
///
/// # Errors
/// When the system does not start the program again. All works as it is then, in more memory.
pub fn settle() -> io::Result<()> {
    let missing: Vec<_> = SETTINGS.into_iter().filter(|(name, _)| env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut args = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    Err(again.args(args).envs(missing).exec())
}
