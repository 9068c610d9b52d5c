//! Checks that do not run the product, cheapest first.

mod lines;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use regex::Regex;

use crate::helm;
use crate::mutants;
use crate::shell::{
    cargo, cargo_tool, command, files, output, read, run as run_command, setting, unchecked,
};

const CARGO_DENY: &str = "0.20.2";

#[derive(Subcommand)]
pub(crate) enum Part {
    /// All checks that compile nothing of the product
    Quick,
    /// The documentation of the code, after a build
    Docs,
}

pub(crate) fn run(part: Option<&Part>) -> Result<()> {
    match part {
        None => quick().and_then(|()| compiled()),
        Some(Part::Quick) => quick(),
        Some(Part::Docs) => step("documentation", docs),
    }
}

fn step(name: &str, check: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("[lint] {name}");
    check().with_context(|| name.to_owned())
}

fn quick() -> Result<()> {
    step("formatting", || {
        run_command(&mut cargo(&["fmt", "--all", "--check"]))
    })?;
    step("no package registry, no path of a machine", neutral)?;
    step("the hook of commit messages", commit_hook)?;
    step("commit messages", commits)?;
    step("one version", versions)?;
    step("statements that were shortened", lines::check)?;
    step("links between files of the repository", links)?;
    step("README's commands", readme_commands)?;
    step("the length of the documents", words)?;
    step("faults that can be planted", || {
        mutants::run(Some(mutants::Part::Check))
    })?;
    step("shell scripts", || {
        shell_scripts()?
            .iter()
            .try_for_each(|script| run_command(command("bash").arg("-n").arg(script)))
    })?;
    step("dependencies: licences, bans, sources", deny)
}

fn compiled() -> Result<()> {
    step("the chart, docker-compose.yml", || {
        helm::run(helm::Part::Check)
    })?;
    step("clippy", || {
        const CLIPPY: [&str; 4] = ["clippy", "--workspace", "--all-targets", "--locked"];
        run_command(cargo(&CLIPPY).args(["--", "-D", "warnings"]))
    })?;
    step("documentation", docs)
}

/// Checks the documentation of the libraries, using the compiled libraries of a build.
fn docs() -> Result<()> {
    let rustdoc = fs::canonicalize("dev/rustdoc.sh")?;
    let words = "test --workspace --locked --quiet --no-fail-fast --doc";
    let mut tests = command("cargo");
    run_command(tests.args(words.split(' ')).env("RUSTDOC", rustdoc))
}

/// Returns the files that end with `.sh` or begin with a shell's `#!`.
fn shell_scripts() -> Result<Vec<PathBuf>> {
    let mut scripts = files(&["."])?;
    // Helm fills in the files of its chart.
    scripts.retain(|path| !path.starts_with("deploy/helm"));
    let is_script = |path: &PathBuf| {
        let is_named_so = path.extension().is_some_and(|ending| ending == "sh");
        is_named_so || fs::read_to_string(path).is_ok_and(|text| names_a_shell(&text))
    };
    scripts.retain(is_script);
    Ok(scripts)
}

/// Whether a text begins with `#!` and a shell whose scripts bash reads.
fn names_a_shell(text: &str) -> bool {
    let program = text.lines().next().and_then(|line| line.strip_prefix("#!"));
    program.is_some_and(|program| {
        program
            .split(['/', ' '])
            .any(|word| matches!(word, "sh" | "bash" | "dash"))
    })
}

/// The newest commits, whose messages are checked. Older ones were checked when they were new, and
/// all of them would take half a minute.
const COMMITS: &str = "--max-count=100";

/// Checks the messages of the newest commits with the commit-msg hook.
fn commits() -> Result<()> {
    let mut list = command("git");
    let hashes = output(list.args(["rev-list", "--no-merges", COMMITS, "HEAD"]))?;
    let message = tempfile::NamedTempFile::new()?;
    for hash in hashes.lines() {
        let text = output(command("git").args(["log", "-1", "--format=%B", hash]))?;
        fs::write(message.path(), text)?;
        run_command(command("dev/hooks/commit-msg").arg(message.path()))
            .context(hash.to_owned())?;
    }
    Ok(())
}

/// Checks that the commit-msg hook refuses subjects that are not in the imperative, and no others,
/// and bodies that are not wrapped, or add a mechanism without a word about the one it replaces.
fn commit_hook() -> Result<()> {
    for (subject, is_imperative) in [
        ("api: add a limit", true),
        ("api: embed the page", true),
        ("attach, api: need no key", true),
        ("api: process claims in order", true),
        ("api: pass the token", true),
        ("api: adds a limit", false),
        ("api: Added a limit", false),
        ("api: adding a limit", false),
        ("api: matches every variant", false),
        ("api: tries again", false),
        ("api: a limit", false),
        ("attach, api: the limit of a pass", false),
    ] {
        let (is_accepted, refusal) = hook_on(&format!("{subject}\n\nThe reason.\n"))?;
        ensure!(
            is_accepted == is_imperative && refusal.contains("as an order") != is_imperative,
            "{subject}: {refusal}"
        );
    }
    let sentence = "A reason in words of which there are too many for one line. ".repeat(2);
    let (is_accepted, refusal) = hook_on(&format!("api: add a limit\n\n{sentence}\n"))?;
    ensure!(
        !is_accepted && refusal.contains("wrap the body"),
        "a long line: {refusal}"
    );
    let repository = tempfile::tempdir()?;
    let code = repository.path().join("api/src");
    fs::create_dir_all(&code)?;
    fs::write(code.join("limit.rs"), "\n".repeat(50))?;
    for git in [&["init", "--quiet"][..], &["add", "--all"]] {
        run_command(command("git").args(git).current_dir(repository.path()))?;
    }
    for (body, is_accepted) in [
        ("Claims need a limit.", false),
        ("It replaces the limit of the proxy.", true),
        ("None can go: nothing limited claims before.", true),
    ] {
        let message = format!("api: add a limit\n\n{body}\n");
        let (accepted, refusal) = hook_in(repository.path(), &message)?;
        ensure!(accepted == is_accepted, "{body}: {refusal}");
    }
    Ok(())
}

/// Runs the commit-msg hook on a message. Returns whether it accepts the message, and its output.
fn hook_on(message: &str) -> Result<(bool, String)> {
    // Outside a repository nothing is staged.
    hook_in(tempfile::tempdir()?.path(), message)
}

/// Like [`hook_on`], for what is staged in this repository.
fn hook_in(repository: &Path, message: &str) -> Result<(bool, String)> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), message)?;
    let mut hook = command(fs::canonicalize("dev/hooks/commit-msg")?);
    let checked = hook.arg(file.path()).current_dir(repository).output()?;
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    Ok((checked.status.success(), said))
}

/// Compares the version of image tags, chart, deployment files and changelog with that of the
/// workspace.
fn versions() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let places = [
        (
            "docker-compose.yml",
            format!("image: firstcome:{version}\n"),
        ),
        (
            "docker-compose.yml",
            format!("image: firstcome-demo:{version}\n"),
        ),
        (
            "deploy/helm/firstcome/Chart.yaml",
            format!("\nversion: {version}\n"),
        ),
        (
            "deploy/helm/firstcome/Chart.yaml",
            format!("\nappVersion: {version}\n"),
        ),
        (
            "deploy/helm/firstcome/README.md",
            format!("/firstcome:{version} "),
        ),
        ("CHANGELOG.md", format!("\n## {version}")),
    ];
    for (file, expected) in places {
        let names_it = read(file)?.contains(&expected);
        ensure!(
            names_it,
            "{file} does not have version {version}: {}",
            expected.trim()
        );
    }
    Ok(())
}

/// Checks that every link of a document to a file of the repository leads to one that exists.
fn links() -> Result<()> {
    let link = Regex::new(r"\]\(([^)#\s]+)")?;
    let mut followed = 0;
    for document in files(&["*.md"])? {
        let text = read(&document)?;
        let folder = document.parent().unwrap_or(Path::new(""));
        for found in link.captures_iter(&text) {
            let target = &found[1];
            if target.contains(':') {
                continue;
            }
            ensure!(
                folder.join(target).exists(),
                "{}: {target} does not exist",
                document.display()
            );
            followed += 1;
        }
    }
    ensure!(followed > 0, "no link was found");
    Ok(())
}

/// Checks that README names the command of the main job and that of the tests, that both exist, and
/// that every change is checked by the latter.
fn readme_commands() -> Result<()> {
    const TESTS: &str = "make test";
    let readme = read("README.md")?;
    let makefile = read("Makefile")?;
    for command in ["make demo", TESTS] {
        ensure!(
            readme
                .lines()
                .any(|line| line.starts_with(&format!("{command} "))),
            "README.md does not have the command `{command}`"
        );
        let target = command.replacen("make ", "", 1);
        ensure!(
            makefile
                .lines()
                .any(|line| line.starts_with(&format!("{target}:"))),
            "Makefile: {target} does not exist"
        );
    }
    let check = read(".ci/run")?;
    let mut commands = check.lines().map(str::trim_start);
    ensure!(
        commands.any(|line| line.starts_with(&format!("timed {TESTS} "))),
        ".ci/run does not run README's `{TESTS}`"
    );
    Ok(())
}

/// The most words of README and `docs/*.md` together, as `wc -w` counts them, without Korean.
const MOST_WORDS: usize = 20_000;

fn words() -> Result<()> {
    let documents = files(&["README.md", ":(glob)docs/*.md", ":(exclude)*.ko.md"])?;
    let mut total = 0;
    for document in &documents {
        total += read(document)?.split_whitespace().count();
    }
    ensure!(total > 0, "no document was read");
    ensure!(
        total <= MOST_WORDS,
        "README and docs have {total} words, at most {MOST_WORDS}: cut what another place says"
    );
    eprintln!("[lint] {total} words, at most {MOST_WORDS}");
    Ok(())
}

/// Rejects files that only work on one machine: the home folder of a developer, or a package
/// registry other than the public ones, which a machine's own configuration may add.
fn neutral() -> Result<()> {
    let home = Regex::new(r#"(^|[\s"'`=(:])/(root|home/[a-z]+|work)/"#)?;
    let registry = Regex::new(r"(?m)^(source = .registry\+|\[source\.|\[registries|index = )")?;
    let mut found = Vec::new();
    for path in files(&["."])? {
        // Images are not text.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let text = text.replace("registry+https://github.com/rust-lang/crates.io-index", "");
        let is_cargos = path == Path::new("Cargo.lock") || path.starts_with(".cargo");
        if home.is_match(&text) || is_cargos && registry.is_match(&text) {
            found.push(path.display().to_string());
        }
    }
    ensure!(found.is_empty(), "{}", found.join(", "));
    Ok(())
}

/// Runs cargo-deny with deny.toml. `ADVISORIES=1` also looks for known vulnerabilities, in
/// RustSec's database on GitHub: no package registry has it.
fn deny() -> Result<()> {
    let mut rules = command(cargo_tool("cargo-deny", CARGO_DENY)?);
    rules.args(["--log-level", "error", "--locked", "check"]);
    rules.args(["licenses", "bans", "sources"]);
    if setting("ADVISORIES").is_some() {
        rules.arg("advisories");
    } else {
        unchecked("known vulnerabilities in dependencies, without ADVISORIES=1")?;
    }
    run_command(&mut rules)
}
