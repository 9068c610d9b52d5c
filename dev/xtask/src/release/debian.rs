//! The Debian package: both programs, systemd units, deployment files, README and licences.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::source::Source;
use super::{LICENCES, PROGRAMS, VERSION};
use crate::shell::{Failed, command, output, run};

pub(super) fn pack(built: &Path, published: &Path, source: &Source) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let tree = temporary.path();
    let documents = tree.join("usr/share/doc/firstcome");
    let mut libraries = BTreeSet::new();
    let mut glibc = Glibc::default();
    for program in PROGRAMS {
        let from = built.join(program);
        let linked = output(command("ldd").arg(&from))?;
        libraries.extend(packages(&linked).with_context(|| program.to_owned())?);
        glibc = glibc.max(newest_glibc(&fs::read(&from)?));
        install(&from, &tree.join("usr/bin").join(program))?;
    }
    for unit in fs::read_dir("deploy/systemd")? {
        let unit = unit?;
        let into = tree.join("usr/lib/systemd/system").join(unit.file_name());
        install(&unit.path(), &into)?;
    }
    install(Path::new("LICENSE"), &documents.join("copyright"))?;
    install(Path::new("README.md"), &documents.join("README.md"))?;
    let changes = documents.join("CHANGELOG.md");
    install(Path::new("docs/CHANGELOG.md"), &changes)?;
    install(&published.join(LICENCES), &documents.join(LICENCES))?;
    run(command("cp")
        .args(["-r", "deploy/grafana", "deploy/prometheus"])
        .arg(&documents))?;

    let arch = architecture(std::env::consts::ARCH)?;
    let depends = depends(&libraries, glibc);
    fs::create_dir(tree.join("DEBIAN"))?;
    fs::write(
        tree.join("DEBIAN/control"),
        control(&Package { arch, depends }),
    )?;
    // Permissions must not depend on the umask of this process, and times must not depend on the
    // clock.
    run(command("chmod").args(["-R", "u=rwX,go=rX"]).arg(tree))?;
    run(command("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .arg(tree)
        .arg(published.join(file_name(arch)))
        .env("SOURCE_DATE_EPOCH", &source.committed_at))
}

fn install(from: &Path, into: &Path) -> Result<()> {
    let folder = into.parent().context("a file without a folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, into).with_context(|| format!("cannot copy {}", from.display()))?;
    let is_program = folder.ends_with("usr/bin");
    let mode = if is_program { 0o755 } else { 0o644 };
    fs::set_permissions(into, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Returns Debian's name for the architecture.
fn architecture(arch: &str) -> Result<&'static str> {
    match arch {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => Err(Failed::check(format!(
            "a release is made for x86_64 and aarch64, not for {other}"
        ))),
    }
}

fn file_name(arch: &str) -> String {
    format!("firstcome_{VERSION}_{arch}.deb")
}

/// Returns the packages of the shared libraries that `ldd` lists.
fn packages(ldd: &str) -> Result<BTreeSet<&'static str>> {
    let mut packages = BTreeSet::new();
    for line in ldd.lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let library = name.split(".so").next().unwrap_or_default();
        match library {
            "libc" | "libm" | "libdl" | "libpthread" | "librt" => packages.insert("libc6"),
            "libgcc_s" => packages.insert("libgcc-s1"),
            "libz" => packages.insert("zlib1g"),
            "" | "linux-vdso" => false,
            loader if loader.starts_with("ld-linux") => false,
            other => {
                return Err(Failed::check(format!(
                    "linked with {other}, which the package does not depend on"
                )));
            }
        };
    }
    Ok(packages)
}

/// A version of glibc.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Glibc {
    major: u32,
    minor: u32,
}

/// Returns the newest version of glibc whose symbols a program uses.
fn newest_glibc(program: &[u8]) -> Glibc {
    const PREFIX: &[u8] = b"GLIBC_";
    let mut newest = Glibc::default();
    for (at, bytes) in program.windows(PREFIX.len()).enumerate() {
        if bytes != PREFIX {
            continue;
        }
        let rest = &program[at + PREFIX.len()..];
        let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        let mut numbers = rest[..end]
            .split(|byte| *byte == b'.')
            .map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        if let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) {
            newest = newest.max(Glibc { major, minor });
        }
    }
    newest
}

fn depends(libraries: &BTreeSet<&str>, Glibc { major, minor }: Glibc) -> String {
    let named = libraries.iter().map(|library| match *library {
        "libc6" => format!("libc6 (>= {major}.{minor})"),
        other => other.to_owned(),
    });
    named
        .chain(["ca-certificates".to_owned()])
        .collect::<Vec<_>>()
        .join(", ")
}

struct Package<'a> {
    arch: &'a str,
    depends: String,
}

fn control(Package { arch, depends }: &Package<'_>) -> String {
    format!(
        "Package: firstcome\n\
         Version: {VERSION}\n\
         Architecture: {arch}\n\
         Maintainer: The maintainers of Firstcome\n\
         Section: net\n\
         Priority: optional\n\
         Depends: {depends}\n\
         Description: limited coupons, first come, first served, with an exact total\n \
          HTTP API, consumer and reconciler on Redis, MySQL and Kafka. Settings are in\n \
          /etc/firstcome/common.env, api.env, consumer.env and reconciler.env; no unit\n \
          starts before you create them. Run firstcome-migrate.service first.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_debians_names_of_files_and_architectures() {
        let arch = architecture("x86_64").unwrap();
        assert_eq!(file_name(arch), format!("firstcome_{VERSION}_amd64.deb"));
        let refusal = architecture("riscv64").unwrap_err().to_string();
        assert!(refusal.ends_with("not for riscv64"), "{refusal}");
    }

    #[test]
    fn writes_all_control_fields_and_indents_the_description() {
        let control = control(&Package {
            arch: "amd64",
            depends: "libc6 (>= 2.34)".to_owned(),
        });
        let (fields, description) = control.split_once("\nDescription: ").unwrap();
        let names: Vec<_> = fields.lines().map(|line| line.split(':').next()).collect();
        for name in [
            "Package",
            "Version",
            "Architecture",
            "Maintainer",
            "Depends",
        ] {
            assert!(names.contains(&Some(name)), "{name} in {control}");
        }
        for line in description.lines().skip(1) {
            assert!(line.starts_with(' '), "{line:?}");
        }
        assert!(control.ends_with('\n'));
    }

    #[test]
    fn derives_dependencies_from_linked_libraries() {
        let ldd = "\tlinux-vdso.so.1 (0x1)\n\tlibz.so.1 => /lib/libz.so.1 (0x2)\n\
                   \tlibgcc_s.so.1 => /lib/libgcc_s.so.1 (0x3)\n\tlibc.so.6 => /lib/libc.so.6 (0x4)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x5)\n";
        let program = b"\0GLIBC_2.4\0GLIBC_2.34\0GLIBC_PRIVATE\0GLIBC_2.2.5\0";
        let depends = depends(&packages(ldd).unwrap(), newest_glibc(program));
        assert_eq!(
            depends,
            "libc6 (>= 2.34), libgcc-s1, zlib1g, ca-certificates"
        );
    }

    #[test]
    fn refuses_a_library_without_a_package() {
        let refusal = packages("\tlibssl.so.3 => /lib/libssl.so.3 (0x1)\n").unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "linked with libssl, which the package does not depend on"
        );
    }
}
