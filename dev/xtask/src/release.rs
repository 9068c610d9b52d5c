//! The files of a release, in target/release-VERSION: a Debian package, bills of materials,
//! licences of dependencies, provenance and checksums; with IMAGE=1 also an image.

mod debian;
mod licences;
mod provenance;
mod source;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use self::provenance::Build;
use self::source::Source;
use crate::programs::{Profile, target};
use crate::shell::{Failed, cache, command, output, root, run, setting};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAMS: [&str; 2] = ["firstcome-api", "firstcome-reconciler"];
const LICENCES: &str = "LICENCES-OF-DEPENDENCIES";
const PROVENANCE: &str = "provenance.intoto.json";
const SUMS: &str = "SHA256SUMS";

pub(crate) fn make() -> Result<()> {
    let source = Source::read()?;
    if let Some(refusal) = source.refusal(VERSION) {
        return Err(Failed::check(refusal));
    }
    let with_image = setting("IMAGE").is_some_and(|choice| choice != "0");
    if with_image {
        output(command("docker").args(["buildx", "version"]))
            .context("IMAGE=1 needs docker with buildx; without IMAGE the image is left out")?;
    }
    let built = Profile::new("release".to_owned()).folder;
    build_programs(&built)?;

    let published = target().join(format!("release-{VERSION}"));
    if published.exists() {
        fs::remove_dir_all(&published)?;
    }
    fs::create_dir_all(&published)?;
    for program in PROGRAMS {
        let bill = published.join(format!("{program}.cdx.json"));
        bill_of_materials(&built.join(program), &bill)?;
    }
    fs::write(published.join(LICENCES), licences::collect()?)?;
    debian::pack(&built, &published, &source)?;
    if with_image {
        run(&mut image(&published))?;
    } else {
        eprintln!("{}", image_left_out(&published));
    }

    let artefacts = digests(&published)?;
    let statement = provenance::statement(&artefacts, &source, &Build::read()?);
    let statement = serde_json::to_string_pretty(&statement)? + "\n";
    fs::write(published.join(PROVENANCE), statement)?;
    fs::write(published.join(SUMS), sums(&digests(&published)?)?)?;
    println!("{}", published.display());
    Ok(())
}

/// A file of the release.
struct Artefact {
    name: String,
    sha256: String,
}

/// Builds the programs so that they contain no folder names of this machine.
fn build_programs(built: &Path) -> Result<()> {
    let repository = root();
    let sources = cargo_home()?;
    let folders = [(sources.as_path(), "/cargo"), (&repository, "/firstcome")];
    let mapped = |option: &str| {
        let options = folders.map(|(folder, name)| format!("{option}={}={name}", folder.display()));
        options.join(" ")
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
    run(&mut build)?;
    for program in PROGRAMS {
        let bytes = fs::read(built.join(program))?;
        for (folder, _) in folders {
            if names_folder(&bytes, folder) {
                eprintln!(
                    "[release] {program} contains names of files in {}",
                    folder.display()
                );
            }
        }
    }
    Ok(())
}

fn cargo_home() -> Result<std::path::PathBuf> {
    setting("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| setting("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

fn names_folder(program: &[u8], folder: &Path) -> bool {
    let name = folder.join("");
    let name = name.as_os_str().as_encoded_bytes();
    program.windows(name.len()).any(|bytes| bytes == name)
}

/// Lists the crates in a program, as CycloneDX.
fn bill_of_materials(program: &Path, into: &Path) -> Result<()> {
    let tool = cache()?.join("auditable-1/bin/auditable2cdx");
    let file = File::create(into)?;
    run(command(tool).arg(program).stdout(file)).context("no bill of materials")
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

fn image_left_out(published: &Path) -> String {
    let docker = image(published);
    let mut text = "[release] the image was left out. IMAGE=1 makes it, with:\n  docker".to_owned();
    for word in docker.get_args() {
        text.push(' ');
        text.push_str(&word.to_string_lossy());
    }
    text
}

/// Returns the files of a folder, sorted by name.
fn digests(folder: &Path) -> Result<Vec<Artefact>> {
    let mut artefacts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        artefacts.push(Artefact {
            name: entry.file_name().to_string_lossy().into_owned(),
            sha256: sha256(&fs::read(entry.path())?)?,
        });
    }
    artefacts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(artefacts)
}

fn sha256(bytes: &[u8]) -> Result<String> {
    let mut hex = String::new();
    for byte in Sha256::digest(bytes) {
        write!(hex, "{byte:02x}")?;
    }
    Ok(hex)
}

/// Returns checksums in the format of `sha256sum --check`.
fn sums(artefacts: &[Artefact]) -> Result<String> {
    let mut sums = String::new();
    for Artefact { name, sha256 } in artefacts {
        writeln!(sums, "{sha256}  {name}")?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_checksums_of_all_files_like_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b"), "").unwrap();
        fs::write(folder.path().join("a"), "abc").unwrap();
        let sums = sums(&digests(folder.path()).unwrap()).unwrap();
        assert_eq!(
            sums,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  b\n"
        );
    }

    #[test]
    fn release_without_an_image_prints_the_command_for_it() {
        let text = image_left_out(Path::new("out"));
        assert!(text.contains("the image was left out"), "{text}");
        let command = "docker buildx build --sbom=true --provenance=mode=max ";
        assert!(text.contains(command), "{text}");
        assert!(text.ends_with("--file dev/Dockerfile ."), "{text}");
    }

    #[test]
    fn detects_the_build_folder_in_a_program() {
        let program = b"\x7fELF\0/build/here/src/lib.rs\0";
        assert!(names_folder(program, Path::new("/build/here")));
        assert!(!names_folder(program, Path::new("/build/her")));
    }
}
