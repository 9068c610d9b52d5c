//! The provenance of a release: an unsigned in-toto statement with a SLSA 1.0 predicate.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::source::Source;
use super::{Artefact, PROGRAMS, VERSION, sha256};
use crate::shell::{command, output};

/// The inputs of the build besides the commit.
pub(super) struct Build {
    lock_file_sha256: String,
    /// The first line in which each tool describes itself.
    rustc: String,
    cargo: String,
    cc: String,
    dpkg_deb: String,
}

impl Build {
    pub(super) fn read() -> Result<Self> {
        let lock_file = std::fs::read("Cargo.lock").context("cannot read Cargo.lock")?;
        let version = |tool: &str| {
            let text = output(command(tool).arg("--version"))?;
            anyhow::Ok(text.lines().next().unwrap_or_default().to_owned())
        };
        Ok(Self {
            lock_file_sha256: sha256(&lock_file)?,
            rustc: version("rustc")?,
            cargo: version("cargo")?,
            cc: version("cc")?,
            dpkg_deb: version("dpkg-deb")?,
        })
    }
}

/// Writes the statement. The builder's name is only a URN, because a reader could not check an
/// identity.
pub(super) fn statement(artefacts: &[Artefact], source: &Source, build: &Build) -> Value {
    let subject: Vec<_> = artefacts
        .iter()
        .map(|artefact| json!({"name": artefact.name, "digest": {"sha256": artefact.sha256}}))
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:firstcome:make-release:1",
                "externalParameters": {"version": VERSION, "programs": PROGRAMS},
                "internalParameters": {
                    "profile": "release",
                    "strip": "symbols",
                    "arch": std::env::consts::ARCH,
                    "os": std::env::consts::OS,
                },
                "resolvedDependencies": [
                    {"name": "firstcome", "digest": {"gitCommit": source.commit}},
                    {"name": "Cargo.lock", "digest": {"sha256": build.lock_file_sha256}},
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:firstcome:make-release",
                    "version": {
                        "rustc": build.rustc,
                        "cargo": build.cargo,
                        "cc": build.cc,
                        "dpkg-deb": build.dpkg_deb,
                    },
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_names_commit_lock_file_toolchain_and_digests() {
        let artefacts = [Artefact {
            name: "a.deb".to_owned(),
            sha256: "aa".to_owned(),
        }];
        let build = Build {
            lock_file_sha256: "bb".to_owned(),
            rustc: "rustc 1".to_owned(),
            cargo: "cargo 1".to_owned(),
            cc: "cc 1".to_owned(),
            dpkg_deb: "dpkg-deb 1".to_owned(),
        };
        let statement = statement(&artefacts, &super::super::source::clean("c1"), &build);
        let at = |pointer: &str| statement.pointer(pointer).unwrap().clone();
        assert_eq!(
            at("/subject"),
            json!([{"name": "a.deb", "digest": {"sha256": "aa"}}])
        );
        assert_eq!(
            at("/predicate/buildDefinition/resolvedDependencies"),
            json!([
                {"name": "firstcome", "digest": {"gitCommit": "c1"}},
                {"name": "Cargo.lock", "digest": {"sha256": "bb"}},
            ])
        );
        assert_eq!(
            at("/predicate/runDetails/builder/version/rustc"),
            json!("rustc 1")
        );
        assert_eq!(
            at("/predicate/buildDefinition/externalParameters/version"),
            json!(VERSION)
        );
    }
}
