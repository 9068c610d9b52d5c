//! Fetches programs that the machine lacks. Everything here blocks.

mod apt;
mod kafka;
mod mariadb;
mod mysql;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tokio::task::spawn_blocking;

pub(crate) use self::kafka::{KAFKA_PASSWORD, KAFKA_USER, kafka, properties as kafka_properties};
pub(crate) use self::mariadb::Mariadb;
pub(crate) use self::mysql::{mysql, to_command};
use crate::cache::{self, step};

/// Ensures that `redis-server` is installed.
pub(crate) fn redis() -> Result<()> {
    installed(&["redis-server"], &["redis-server"])
}

/// Ensures that PostgreSQL is installed. Its programs are not in `PATH`.
pub(crate) fn postgres() -> Result<()> {
    if Path::new("/usr/lib/postgresql").is_dir() {
        return Ok(());
    }
    apt::install(&["postgresql"])
}

/// Returns the number of a user of the machine.
pub(crate) fn user_id(name: &str) -> Result<u32> {
    let id = run(Command::new("id").args(["-u", name]))?;
    Ok(id.trim().parse()?)
}

/// Ensures that `chromium` and `chromedriver` are installed. If one is missing, installs both, from
/// packages of the same version, and a Korean font.
pub(crate) fn browser() -> Result<()> {
    let packages = ["chromium", "chromium-driver", "fonts-nanum"];
    installed(&["chromium", "chromedriver"], &packages)
}

/// Fetches everything that is missing and reports its steps on stderr: Debian packages
/// (`redis-server`, `postgresql`, `prometheus`, a Java runtime, Maven, Chromium; needs root), and MySQL, MariaDB,
/// Kafka and axe (into the cache folder, without changing the machine). Does nothing the second
/// time.
pub async fn setup() -> Result<()> {
    let tests: [(&str, Fetch); 4] = [
        ("PostgreSQL", postgres),
        ("promtool", || installed(&["promtool"], &["prometheus"])),
        ("MariaDB", || Mariadb::fetch().map(drop)),
        ("the browser", || browser().and_then(|()| axe().map(drop))),
    ];
    fetch(SYSTEM.into_iter().chain(tests)).await
}

/// Like [`setup`], but fetches only the servers of the system: Redis, MySQL and Kafka.
pub async fn setup_system() -> Result<()> {
    fetch(SYSTEM).await
}

type Fetch = fn() -> Result<()>;

const SYSTEM: [(&str, Fetch); 3] = [
    ("Redis", redis),
    ("MySQL", || mysql()?.data_template().map(drop)),
    ("Kafka", || kafka()?.classes().map(drop)),
];

async fn fetch(fetches: impl IntoIterator<Item = (&'static str, Fetch)>) -> Result<()> {
    let running = fetches
        .into_iter()
        .map(|(name, fetch)| (name, spawn_blocking(fetch)));
    // All of them begin at once.
    let running: Vec<_> = running.collect();
    let mut failed = Vec::new();
    for (name, fetch) in running {
        match fetch.await? {
            Ok(()) => step(name, "ready"),
            Err(error) => failed.push(format!("{name} is not ready: {error:#}")),
        }
    }
    if !failed.is_empty() {
        bail!(failed.join("\n"))
    }
    Ok(())
}

const AXE: &str = "4.11.1";

/// Returns the path of the script of axe-core, an accessibility checker. It has the MPL licence, so
/// only tests use it, and no program contains it.
pub(crate) fn axe() -> Result<PathBuf> {
    let dir = cache::get(&format!("axe-{AXE}"), |part| {
        step("axe", format!("downloading {AXE} with Maven"));
        let artifact = format!("-Dartifact=com.deque.html.axe-core:selenium:{AXE}");
        let only = "-Dmdep.unpack.includes=axe.min.js";
        maven("unpack", [&artifact, only], part, part)?;
        // Without a project, the plugin records the unpacked artifacts in a folder with this name.
        Ok(fs::remove_dir_all(part.join("${project.basedir}"))?)
    })?;
    Ok(dir.join("axe.min.js"))
}

/// Runs a goal of Maven's dependency plugin that puts files into the folder `into`.
fn maven<const N: usize>(goal: &str, args: [&str; N], part: &Path, into: &Path) -> Result<()> {
    const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1";
    installed(&["mvn"], &["maven"])?;
    // A separate repository, so that nothing outside the cache folder changes.
    let repository = part.join("repository");
    let mut maven = Command::new("mvn");
    maven
        .current_dir(part)
        .args(["--batch-mode", "--no-transfer-progress"])
        .arg(format!("{PLUGIN}:{goal}"))
        .args(args)
        .arg(format!("-DoutputDirectory={}", into.display()))
        .arg(format!("-Dmaven.repo.local={}", repository.display()));
    run(&mut maven)?;
    Ok(fs::remove_dir_all(repository)?)
}

/// Installs packages with apt if one of these programs is missing.
fn installed(programs: &[&str], packages: &[&str]) -> Result<()> {
    if programs.iter().all(|program| exists(program)) {
        return Ok(());
    }
    apt::install(packages)
}

/// Runs a command and returns its standard output.
fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{name}`: is it installed?"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let all = stdout + &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = all.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    bail!("`{name}` failed ({}):\n{tail}", output.status)
}

/// Whether a program is in `PATH`.
fn exists(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
