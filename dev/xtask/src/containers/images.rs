//! Builds our image, and stand-ins for third-party images, under the names that our files use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::programs::Profile;
use crate::shell::{cache, command, output, read, root, run};

/// The version of the stand-ins: raise it if their packages change.
const BASE: &str = "3";
const SERVERS: &str = "localhost/firstcome-debian-servers";
const BUILD: &str = "localhost/firstcome-debian-build";
/// The servers of docker-compose.yml, except MySQL and Kafka, which `cargo xtask setup` fetches.
const SERVER_PACKAGES: &str =
    "ca-certificates,redis-server,nginx-light,default-jre-headless,busybox-static,python3-aiosmtpd";
/// The packages that the official Rust image has and our build needs.
const BUILD_PACKAGES: &str = "ca-certificates,gcc,g++,libc6-dev,make,perl,pkg-config,libssl-dev,libzstd-dev,libcurl4-openssl-dev";

/// The folder in which an administrator installs additional certificate authorities.
const OWN_AUTHORITIES: &str = "/usr/local/share/ca-certificates";

/// Targets of dev/containers/Containerfile, with the beginning of the image's name in our files.
const STAND_INS: [(&str, &str); 6] = [
    ("redis", "redis:"),
    ("busybox", "busybox:"),
    ("mysql", "mysql:"),
    ("kafka", "apache/kafka:"),
    ("nginx", "nginx:"),
    ("mailpit", "axllent/mailpit:"),
];

pub(super) fn podman(words: &[&str]) -> Command {
    let mut podman = command("podman");
    podman.args(words).env(
        "CONTAINERS_CONF",
        root().join("dev/containers/containers.conf"),
    );
    podman
}

/// Makes a stand-in for each third-party image that docker-compose.yml names.
pub(super) fn stand_ins() -> Result<()> {
    debian(SERVERS, SERVER_PACKAGES)?;
    let compose = read("docker-compose.yml")?;
    for (target, start) in STAND_INS {
        let name = image_that_starts_with(&compose, start)
            .with_context(|| format!("docker-compose.yml names no image {start}…"))?;
        stand_in(target, name)?;
    }
    Ok(())
}

fn image_that_starts_with<'a>(compose: &'a str, start: &str) -> Option<&'a str> {
    compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: "))
        .find(|name| name.starts_with(start))
}

/// Builds one target of dev/containers/Containerfile under the full name that podman looks for.
fn stand_in(target: &str, name: &str) -> Result<()> {
    let full_name = if name.contains('/') {
        format!("docker.io/{name}")
    } else {
        format!("docker.io/library/{name}")
    };
    let mut build = podman(&["build", "--quiet", "--target", target, "--tag", &full_name]);
    for (context, folder) in [
        ("mysql-files", fetched("mysql-")?.join("root")),
        ("kafka-files", fetched("kafka-")?),
        ("rust-files", toolchain()?),
    ] {
        build.arg(format!("--build-context={context}={}", folder.display()));
    }
    run(build.arg("dev/containers").stdout(Stdio::null()))
}

/// Returns the folder of a server that `cargo xtask setup` has fetched.
fn fetched(start: &str) -> Result<PathBuf> {
    let folder = cache()?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let version = name.to_string_lossy();
        let is_version = version
            .strip_prefix(start)
            .is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()));
        if is_version && entry.path().is_dir() {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("no {start}… in {}: cargo xtask setup", folder.display())
}

fn toolchain() -> Result<PathBuf> {
    let folder = output(command("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(folder.trim()))
}

/// Makes an image of Debian with these packages, once.
fn debian(name: &str, packages: &str) -> Result<()> {
    let tagged = format!("{name}:{BASE}");
    let exists = podman(&["image", "exists", &tagged]).status()?.success();
    if !exists {
        eprintln!("[containers] making {tagged} from Debian's packages");
        let folder = tempfile::tempdir()?;
        let archive = folder.path().join("root.tar");
        let mut bootstrap = command("mmdebstrap");
        // A machine behind a proxy may have additional certificate authorities, which builds in the
        // image need.
        if Path::new(OWN_AUTHORITIES).exists() {
            let parent = Path::new(OWN_AUTHORITIES)
                .parent()
                .unwrap_or(Path::new("/"));
            bootstrap
                .arg(format!(
                    "--customize-hook=copy-in {OWN_AUTHORITIES} {}",
                    parent.display()
                ))
                .arg(r#"--customize-hook=chroot "$1" update-ca-certificates"#);
        }
        // If the mirror of this machine is frozen, its apt is configured to accept old lists. The
        // images need the same setting.
        let validity = ["shell", "VALIDITY", "Acquire::Check-Valid-Until"];
        if output(command("apt-config").args(validity))?.contains("false") {
            bootstrap.arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
        }
        bootstrap
            .args([
                "--quiet",
                "--variant=minbase",
                "--include",
                packages,
                "bookworm",
            ])
            .arg(&archive);
        run(&mut bootstrap)?;
        run(podman(&["import", "--quiet"])
            .arg(&archive)
            .arg(&tagged)
            .stdout(Stdio::null()))?;
    }
    run(podman(&["tag", &tagged, &format!("{name}:latest")]).stdout(Stdio::null()))
}

/// Builds our image. With a profile, its programs replace those of the stage `build`.
pub(super) fn firstcome(prebuilt: Option<&Profile>) -> Result<()> {
    let mut build = build("firstcome");
    let folder = tempfile::tempdir()?;
    if let Some(profile) = prebuilt {
        eprintln!(
            "[containers] making the image from {}",
            profile.folder.display()
        );
        copy_programs(profile, &folder.path().join("image"))?;
        build.arg(format!("--build-context=build={}", folder.path().display()));
    } else {
        eprintln!("[containers] building the image (a release, in about 15 minutes)");
        rust()?;
    }
    run(&mut build)
}

/// Builds the image of the service `demo`.
pub(super) fn demo() -> Result<()> {
    eprintln!("[containers] building the image of the demo");
    debian(SERVERS, SERVER_PACKAGES)?;
    stand_in("debian", &base_of_dockerfile("debian:")?)?;
    rust()?;
    run(&mut build("firstcome-demo"))?;
    let size = ["image", "inspect", "--format", "{{.Size}}"];
    let tag = tag("firstcome-demo");
    let bytes: u64 = output(podman(&size).arg(&tag))?.trim().parse()?;
    eprintln!(
        "[containers] the image of the demo has {} MB",
        bytes / 1_000_000
    );
    ensure!(bytes <= MOST_OF_DEMO, "the image of the demo is too large");
    Ok(())
}

/// The largest size of the image of the demo, in bytes.
const MOST_OF_DEMO: u64 = 1_500_000_000;

/// Makes a stand-in for Rust's image.
fn rust() -> Result<()> {
    debian(BUILD, BUILD_PACKAGES)?;
    stand_in("rust", &base_of_dockerfile("rust:")?)
}

/// Returns the command that builds one of our images. A target is named like its image, without the
/// name of the project.
fn build(image: &str) -> Command {
    let tag = tag(image);
    let target = image.strip_prefix("firstcome-").unwrap_or(image);
    podman(&[
        "build",
        "--network=host",
        "--file=dev/Dockerfile",
        "--tag",
        &tag,
        "--target",
        target,
        ".",
    ])
}

fn tag(image: &str) -> String {
    format!("localhost/{image}:{}", env!("CARGO_PKG_VERSION"))
}

fn copy_programs(profile: &Profile, image: &Path) -> Result<()> {
    let folder = image.join("usr/local/bin");
    fs::create_dir_all(&folder)?;
    for program in ["firstcome-api", "firstcome-reconciler"] {
        fs::copy(profile.folder.join(program), folder.join(program))
            .with_context(|| format!("target has no {program}"))?;
    }
    // Programs of a developer's build contain no list of their dependencies.
    run(command("dev/image.sh").arg(image).env("SBOM", "none"))
}

/// Returns the base image in dev/Dockerfile whose name begins with this.
fn base_of_dockerfile(start: &str) -> Result<String> {
    let file = read("dev/Dockerfile")?;
    let mut bases = file.lines().filter_map(|line| line.strip_prefix("FROM "));
    let base = bases.find(|base| base.starts_with(start));
    let base = base.and_then(|base| base.split_whitespace().next());
    let base = base.with_context(|| format!("dev/Dockerfile builds from no {start}…"))?;
    Ok(base.to_owned())
}
