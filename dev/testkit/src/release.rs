//! Releases of the product that a test runs together.

use std::path::PathBuf;

use firstcome_stack::built_program;

/// The release of the programs. `cargo xtask upgrade-test` builds the other releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// An older commit, in the folder `OLD_PROGRAMS`.
    Old,
    /// The current sources.
    #[default]
    This,
}

impl Release {
    /// Returns the path of a program of this release.
    pub(crate) fn program(self, name: &str) -> PathBuf {
        let folder =
            |variable: &str| {
                let folder = std::env::var_os(variable);
                PathBuf::from(folder.unwrap_or_else(|| {
                    panic!("{variable} is not set: run `cargo xtask upgrade-test`")
                }))
            };
        match self {
            Self::Old => folder("OLD_PROGRAMS").join(name),
            Self::This => built_program(name).unwrap(),
        }
    }
}
