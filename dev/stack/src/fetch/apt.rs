//! Debian packages that are installed on the machine, or unpacked into a separate folder.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{exists, run, step};
use crate::cache;

/// The keyring of Debian's suites; newer releases exclude it from apt's default trust.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Installs packages with apt.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !exists("apt-get") {
        bail!("missing: {list}. This machine has no apt: install the programs manually");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing: {list}. Run as root: apt-get install {list}");
    }
    let _lock = cache::lock("apt")?;
    step("apt", format!("installing {list}"));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
        apt
    };
    run(apt().arg("update"))?;
    run(apt()
        .args(["install", "-y", "--no-install-recommends"])
        .args(packages))?;
    Ok(())
}

/// Downloads packages of another suite with all their dependencies, from apt's configured mirror,
/// and unpacks them into `root`. Nothing on the machine changes: apt works with a separate
/// configuration, lists and status in `work`.
pub(super) fn unpack(
    what: &str,
    packages: &[&str],
    suite: &str,
    skip: &[&str],
    work: &Path,
    root: &Path,
) -> Result<()> {
    for tool in ["apt-get", "dpkg-deb"] {
        if !exists(tool) {
            bail!(
                "`{tool}` is missing: {what} is fetched from a Debian mirror, so this needs Debian or a derivative"
            );
        }
    }
    for dir in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(work.join(dir))?;
    }
    fs::create_dir_all(root)?;
    fs::write(work.join("status"), "")?;
    let signed_by = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    fs::write(
        work.join("sources.list"),
        format!("deb {signed_by}{} {suite} main\n", mirror()?),
    )?;
    configure(work)?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("APT_CONFIG", work.join("apt.conf")).arg("-qq");
        apt
    };
    step(what, format!("reading the package lists of Debian {suite}"));
    run(apt().arg("update"))?;
    step(what, format!("downloading {}", packages.join(", ")));
    run(apt()
        .args(["install", "-y", "--download-only"])
        .args(packages))?;
    step(what, "unpacking");
    extract_all(&work.join("archives"), skip, root)
}

fn extract_all(archives: &Path, skip: &[&str], root: &Path) -> Result<()> {
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let skipped = skip.iter().any(|prefix| name.starts_with(prefix));
        if path.extension().is_some_and(|extension| extension == "deb") && !skipped {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

/// Writes `apt.conf`, which apt reads first, and the main configuration, which apt reads after the
/// system's and which clears its hooks. In container images these hooks delete all archives after
/// an update, although the system's own apt may be about to install from them.
fn configure(work: &Path) -> Result<()> {
    let machine = Path::new("/etc/apt/apt.conf");
    let mut main = if machine.exists() {
        format!("#include \"{}\";\n", machine.display())
    } else {
        String::new()
    };
    main.push_str("#clear APT::Update::Post-Invoke;\n#clear DPkg::Post-Invoke;\n");
    fs::write(work.join("main.conf"), main)?;
    fs::write(work.join("apt.conf"), private_configuration(work)?)?;
    Ok(())
}

fn private_configuration(work: &Path) -> Result<String> {
    let mut text = String::new();
    for (option, file) in [
        ("Dir::Etc::main", "main.conf"),
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "status"),
        ("Dir::State::extended_states", "extended_states"),
        ("Dir::Cache", "."),
        ("Dir::Cache::archives", "archives"),
    ] {
        writeln!(text, "{option} \"{}\";", work.join(file).display())?;
    }
    for option in [
        "Dir::Etc::sourceparts",
        "Dir::Etc::preferences",
        "Dir::Etc::preferencesparts",
    ] {
        writeln!(text, "{option} \"/dev/null\";")?;
    }
    text.push_str("APT::Install-Recommends \"0\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n");
    Ok(text)
}

/// Returns the mirror that the system's apt uses for the installed release.
fn mirror() -> Result<String> {
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(RELEASE)|$(COMPONENT)|$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default();
    choose_mirror(&targets, codename).map(str::to_owned)
}

fn choose_mirror<'a>(targets: &'a str, codename: &str) -> Result<&'a str> {
    let of_main = targets.lines().filter_map(|line| {
        let mut fields = line.split('|');
        let release = fields.next()?;
        let component = fields.next()?;
        let uri = fields.next()?;
        (component == "main").then_some((release, uri))
    });
    let mut found: Vec<_> = of_main.collect();
    // Other archives, such as security updates, have no `sid`.
    found.sort_by_key(|(release, _)| *release != codename);
    found
        .first()
        .map(|(_, uri)| *uri)
        .context("apt is configured with no Debian mirror")
}
