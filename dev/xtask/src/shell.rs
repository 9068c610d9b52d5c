//! Starts child processes and reports their failures.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};

/// A command that ended with an error. This program ends with the same code.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    pub(crate) code: u8,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failed {}

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets this variable at run time. The folder may have moved after the build.
    let own =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let own = PathBuf::from(own);
    own.ancestors().nth(2).unwrap_or(&own).to_owned()
}

/// Returns an environment variable that is set and not empty.
pub(crate) fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Lets git run the repository's hooks, unless the developer has set other ones. Outside of a clone
/// (in an image, for instance) there is nothing to set.
pub(crate) fn install_hooks() -> Result<()> {
    if !Path::new(".git").exists() {
        return Ok(());
    }
    let set = command("git")
        .args(["config", "--get", "core.hooksPath"])
        .output()
        .context("cannot start git")?;
    if set.status.success() {
        return Ok(());
    }
    run(command("git").args(["config", "core.hooksPath", "dev/hooks"]))
}

/// Reports a check that cannot be made on this machine, also in the file that `UNCHECKED` names.
/// With `REQUIRED=1`, as the hosted workflows set it, that is an error.
pub(crate) fn unchecked(what: &str) -> Result<()> {
    ensure!(setting("REQUIRED").is_none(), "UNCHECKED: {what}");
    eprintln!("[xtask] UNCHECKED: {what}");
    if let Some(file) = setting("UNCHECKED") {
        let mut list = File::options().create(true).append(true).open(file)?;
        writeln!(list, "{what}")?;
    }
    Ok(())
}

/// Returns the cache folder, which `firstcome-stack` also uses.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = setting("FIRSTCOME_CACHE")
        .map(PathBuf::from)
        .or_else(|| setting("XDG_CACHE_HOME").map(|home| Path::new(&home).join("firstcome")))
        .or_else(|| setting("HOME").map(|home| Path::new(&home).join(".cache/firstcome")))
        .context("no folder to keep tools in: set FIRSTCOME_CACHE")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(std::path::absolute(folder)?)
}

/// Variables in which `cargo run` describes this package. Build scripts that watch them (such as
/// ring's) would run again in each `cargo` started from here.
fn describes_this_package(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_MANIFEST_LINKS",
        "CARGO_CRATE_NAME",
        "CARGO_BIN_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "OUT_DIR",
    ];
    name.starts_with("CARGO_PKG_") || NAMES.contains(&name)
}

/// Creates a command with the environment of this program's caller.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if describes_this_package(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command
}

/// Creates a `cargo` command with these arguments.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut cargo = command("cargo");
    cargo.args(args);
    cargo
}

/// Runs a command. The error contains the command line and the exit code.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command_line(command)))?;
    judge(command, status)
}

/// Runs a command and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", command_line(command)))?;
    judge(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Replaces this process, so that the program gets the terminal, signals and exit code.
pub(crate) fn exec(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", command_line(command)))
}

pub(crate) fn judge(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Failed {
        what: format!("{}: {status}", command_line(command)),
        code: code.unwrap_or(1),
    }
    .into())
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns a program of crates.io, which is built once into the cache folder. It is not optimised,
/// because it is fast enough.
pub(crate) fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    let root = cache()?.join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    eprintln!("[xtask] building {name} {version} into {}", root.display());
    let build = tempfile::tempdir()?;
    let mut install = cargo(&["install", "--quiet", "--locked", "--debug", "--no-track"]);
    install.args(["--config", "profile.dev.debug=false", "--version", version]);
    install.args([name, "--root"]).arg(&root);
    // The workspace's own crates are compiled by clippy in the check, and this one is not.
    install.env_remove("RUSTC_WORKSPACE_WRAPPER");
    run(install.env("CARGO_TARGET_DIR", build.path()))?;
    Ok(program)
}

/// Installs Debian packages, which requires root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    const QUIET: [&str; 3] = ["-qq", "-o", "DPkg::Lock::Timeout=300"];
    eprintln!("[xtask] installing {} with apt", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get");
        apt.args(QUIET).args(args).args(["--no-install-recommends"]);
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null());
        run(&mut apt)
    };
    apt(&["update"])?;
    apt(&[&["install", "-y"][..], packages].concat())
        .with_context(|| format!("needed as root: apt-get install {}", packages.join(" ")))
}

/// Returns the matching files of the repository, including new ones and excluding deleted ones.
pub(crate) fn files(patterns: &[&str]) -> Result<Vec<PathBuf>> {
    let mut git = command("git");
    git.args("ls-files --cached --others --exclude-standard -z --".split(' '));
    let listed = output(git.args(patterns))?;
    let mut files: Vec<_> = listed
        .split_terminator('\0')
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// Reads a file as text. The error names the file.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
