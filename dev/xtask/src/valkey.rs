//! Runs the tests on Valkey instead of Redis. Debian's backports are unpacked into the cache
//! folder; nothing is installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{cache, command, exec, output, path_with, read, run};

pub(crate) fn test(args: &[String]) -> Result<()> {
    let root = cache()?.join("valkey");
    if !root.join("bin/redis-server").exists() {
        fetch(&root).context("cannot fetch Valkey")?;
    }
    let path = path_with(&root.join("bin"))?;
    run(command(root.join("bin/redis-server")).arg("--version"))?;
    let mut tests = command(std::env::current_exe()?);
    exec(tests.arg("test").args(args).env("PATH", path))
}

fn fetch(root: &Path) -> Result<()> {
    eprintln!(
        "[valkey] fetching Valkey of Debian's backports into {}",
        root.display()
    );
    let work = tempfile::tempdir()?;
    // apt reads its lists as another user.
    fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
    let sources = format!(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {} main\n",
        mirror()?,
        suite()?
    );
    fs::write(work.path().join("sources"), sources)?;
    for folder in ["lists/partial", "cache", "root"] {
        fs::create_dir_all(work.path().join(folder))?;
    }
    run(apt(work.path()).arg("update"))?;
    run(apt(work.path()).args(["download", "valkey-server", "valkey-tools"]))?;
    for entry in fs::read_dir(work.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            run(command("dpkg")
                .arg("-x")
                .arg(path)
                .arg(work.path().join("root")))?;
        }
    }
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    for entry in fs::read_dir(work.path().join("root/usr/bin"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("valkey-") {
            run(command("cp").arg("-P").arg(entry.path()).arg(&bin))?;
        }
    }
    symlink("valkey-cli", bin.join("redis-cli"))?;
    // Created last, because `test` treats a root that has it as complete.
    symlink("valkey-server", bin.join("redis-server"))?;
    Ok(())
}

/// Returns an apt command with separate lists and a separate cache, so that the system's stay
/// unchanged.
fn apt(work: &Path) -> Command {
    let mut apt = command("apt-get");
    apt.current_dir(work).args([
        "-qq",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Dir::Etc::sourceparts=-",
    ]);
    for (setting, place) in [
        ("Dir::Etc::sourcelist", "sources"),
        ("Dir::State::lists", "lists"),
        ("Dir::Cache", "cache"),
    ] {
        apt.arg("-o")
            .arg(format!("{setting}={}", work.join(place).display()));
    }
    apt
}

/// Returns the mirror from which this machine gets Debian's main packages.
fn mirror() -> Result<String> {
    let mut apt = command("apt-get");
    apt.args([
        "indextargets",
        "--format",
        "$(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let targets = output(&mut apt)?;
    let mut mirrors = targets
        .lines()
        .filter_map(|line| line.strip_prefix("main "));
    let mirror = mirrors.find(|mirror| !mirror.contains("security"));
    Ok(mirror.context("apt has no mirror of Debian")?.to_owned())
}

fn suite() -> Result<String> {
    let release = read("/etc/os-release")?;
    let mut names = release
        .lines()
        .filter_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = names
        .next()
        .context("/etc/os-release has no VERSION_CODENAME")?;
    Ok(format!("{name}-backports"))
}
