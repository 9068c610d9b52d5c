//! The files of a release, in target/release-VERSION: a Debian package, bills of materials,
//! licences of dependencies and checksums; with IMAGE=1 also an image.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs::{Profile, target};
use crate::shell::{
    Failed, cache, cargo, cargo_home, cargo_tool, command, output, root, run, setting,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAMS: [&str; 2] = ["firstcome-api", "firstcome-reconciler"];
const CARGO_DEB: &str = "3.8.0";

pub(crate) fn make() -> Result<()> {
    let changed = output(command("git").args(["status", "--porcelain"]))?;
    if !changed.is_empty() {
        return Err(Failed::check(format!(
            "a release is built from a commit; commit or remove these changes first:\n{changed}"
        )));
    }
    let built = Profile::new("release".to_owned()).folder;
    build_programs()?;
    let published = target().join(format!("release-{VERSION}"));
    if published.exists() {
        fs::remove_dir_all(&published)?;
    }
    fs::create_dir_all(&published)?;
    for program in PROGRAMS {
        bill_of_materials(
            &built.join(program),
            &published.join(format!("{program}.cdx.json")),
        )?;
    }
    // The package contains this file: `package.metadata.deb` in api/Cargo.toml.
    let licences = target().join("LICENCES-OF-DEPENDENCIES");
    fs::write(&licences, licences_of_dependencies()?)?;
    fs::copy(&licences, published.join("LICENCES-OF-DEPENDENCIES"))?;
    package(&published)?;
    if setting("IMAGE").is_some_and(|choice| choice != "0") {
        run(&mut image(&published))?;
    } else {
        eprintln!("[release] the image is left out: IMAGE=1 makes it");
    }
    let mut sums = command("sh");
    sums.args(["-c", "sha256sum * > ../SHA256SUMS && mv ../SHA256SUMS ."]);
    run(sums.current_dir(&published))?;
    println!("{}", published.display());
    Ok(())
}

/// Builds the programs so that they contain no folder names of this machine.
fn build_programs() -> Result<()> {
    let folders = [(cargo_home()?, "/cargo"), (root(), "/firstcome")];
    let mapped = |option: &str| {
        let options = folders
            .iter()
            .map(|(folder, name)| format!("{option}={}={name}", folder.display()));
        options.collect::<Vec<_>>().join(" ")
    };
    let mut build = command("dev/auditable.sh");
    build
        .arg("--release")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", mapped("--remap-path-prefix"))
        .env("CFLAGS", mapped("-ffile-prefix-map"))
        .env("CXXFLAGS", mapped("-ffile-prefix-map"));
    for program in PROGRAMS {
        build.args(["-p", program]);
    }
    run(&mut build)
}

/// Lists the crates in a program, as CycloneDX.
fn bill_of_materials(program: &Path, into: &Path) -> Result<()> {
    let tool = cache()?.join("auditable-1/bin/auditable2cdx");
    let file = File::create(into)?;
    run(command(tool).arg(program).stdout(file)).context("no bill of materials")
}

/// Packs what api/Cargo.toml lists. Times in the package are those of the commit.
fn package(published: &Path) -> Result<()> {
    let committed = output(command("git").args(["log", "-1", "--format=%ct"]))?;
    let deb = cargo_tool("cargo-deb", CARGO_DEB)?;
    let mut pack = command(deb);
    pack.args(["--no-build", "--locked", "-p", "firstcome-api", "--output"]);
    pack.arg(published)
        .env("SOURCE_DATE_EPOCH", committed.trim());
    run(&mut pack)
}

/// Builds the image. Its archive has attestations only if buildx's builder is a container (`docker
/// buildx create --use`).
fn image(published: &Path) -> std::process::Command {
    let archive = published.join(format!("firstcome-{VERSION}-image.tar"));
    let mut docker = command("docker");
    docker.args(["buildx", "build", "--sbom=true", "--provenance=mode=max"]);
    docker.args(["--tag", &format!("firstcome:{VERSION}")]);
    docker.arg(format!("--output=type=oci,dest={}", archive.display()));
    docker.args(["--file", "dev/Dockerfile", "."]);
    docker
}

/// Collects the licence of each crate in the programs, with its text if the crate contains it.
fn licences_of_dependencies() -> Result<String> {
    // Build dependencies are included, because openssl-src has the sources of a library that is
    // linked.
    let mut tree = cargo(&["tree", "--locked", "--edges", "normal,build"]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    for program in PROGRAMS {
        tree.args(["-p", program]);
    }
    let tree = output(&mut tree)?;
    let used: BTreeSet<_> = tree.lines().filter_map(name_and_version).collect();
    let mut metadata = cargo(&["metadata", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&output(&mut metadata)?)?;
    let mut text = String::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let of = |field: &str| package[field].as_str().unwrap_or_default();
        if package["source"].is_null() || !used.contains(&(of("name"), of("version"))) {
            continue;
        }
        let title = format!("{} {}: {}", of("name"), of("version"), of("license"));
        writeln!(text, "{:=<80}\n{title}\n", "")?;
        let manifest = Path::new(of("manifest_path"));
        // Sources of C libraries are one or two folders deeper.
        let mut find = command("find");
        find.arg(manifest.parent().context("a crate without a folder")?);
        find.args([
            "-maxdepth",
            "3",
            "-type",
            "f",
            "-regextype",
            "posix-extended",
        ]);
        find.args(["-iregex", r".*/(licen[cs]e|copying|notice|unlicense)[^/]*"]);
        find.args(["-not", "-regex", r".*\.(rs|c|h)"]);
        for file in output(&mut find)?.lines().collect::<BTreeSet<_>>() {
            writeln!(text, "{}", String::from_utf8_lossy(&fs::read(file)?))?;
        }
    }
    Ok(text)
}

/// Returns name and version in a line of `cargo tree`.
fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?, words.next()?.strip_prefix('v')?))
}
