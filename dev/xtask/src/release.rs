//! The files of a release: programs with their bills of materials, deployment files and checksums,
//! in target/release-VERSION.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

use crate::programs::{Profile, target};
use crate::shell::{cache, command, output, run};

const PROGRAMS: [&str; 2] = ["firstcome-api", "firstcome-reconciler"];

pub(crate) fn make() -> Result<()> {
    let mut build = command("dev/auditable.sh");
    build
        .arg("--release")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    for program in PROGRAMS {
        build.args(["-p", program]);
    }
    run(&mut build)?;
    let name = format!(
        "firstcome-{}-{}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    let published = target().join(format!("release-{}", env!("CARGO_PKG_VERSION")));
    if published.exists() {
        fs::remove_dir_all(&published)?;
    }
    let folder = published.join(&name);
    fs::create_dir_all(&folder)?;
    let profile = Profile::new("release".to_owned());
    for program in PROGRAMS {
        let built = profile.folder.join(program);
        fs::copy(&built, folder.join(program))?;
        bill_of_materials(&built, &folder.join(format!("{program}.cdx.json")))?;
    }
    let commit = output(command("git").args(["rev-parse", "HEAD"]))?;
    let rust = output(command("rustc").arg("--version"))?;
    fs::write(folder.join("BUILD"), format!("commit {commit}{rust}"))?;
    run(command("cp")
        .args(["-r", "LICENSE", "README.md", "docs/CHANGELOG.md", "deploy"])
        .arg(&folder))?;

    let archive = format!("{name}.tar.gz");
    // The same files give the same archive.
    let mut tar = command("tar");
    tar.current_dir(&published).args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "-czf",
        &archive,
        &name,
    ]);
    run(&mut tar)?;
    fs::remove_dir_all(&folder)?;
    let sums = File::create(published.join("SHA256SUMS"))?;
    run(command("sha256sum")
        .arg(&archive)
        .current_dir(&published)
        .stdout(sums))?;
    println!("{}", published.join(archive).display());
    Ok(())
}

/// The crates in a program, as CycloneDX.
fn bill_of_materials(program: &Path, into: &Path) -> Result<()> {
    let tool = cache()?.join("auditable-1/bin/auditable2cdx");
    let file = File::create(into)?;
    run(command(tool).arg(program).stdout(file)).context("no bill of materials")
}
