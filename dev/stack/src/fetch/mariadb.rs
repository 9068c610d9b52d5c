//! MariaDB: Debian packages that are unpacked and run through their own loader. Installing them
//! would remove a MySQL server of the machine.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::apt;
use crate::cache;

/// The suite with the version that the documentation names.
const SUITE: &str = "bookworm";

/// An unpacked MariaDB.
#[derive(Debug)]
pub(crate) struct Mariadb {
    root: PathBuf,
}

impl Mariadb {
    /// Returns the MariaDB of the cache folder, which is fetched if necessary. Blocks.
    pub(crate) fn fetch() -> Result<Self> {
        let dir = cache::get(&format!("mariadb-{SUITE}"), |part| {
            let work = part.join("work");
            // Perl is only needed by scripts that nothing here uses.
            let skip = ["perl", "libperl"];
            let packages = ["mariadb-server-core"];
            let root = part.join("root");
            apt::unpack("mariadb", &packages, SUITE, &skip, &work, &root)?;
            Ok(fs::remove_dir_all(work)?)
        })?;
        Ok(Self {
            root: dir.join("root"),
        })
    }

    /// Returns the command of the server for this data folder.
    pub(crate) fn server(&self, data: &Path) -> Command {
        let libraries = format!("lib/{ARCH}-linux-gnu");
        let inner = self.root.join("usr").join(&libraries);
        let outer = self.root.join(&libraries);
        let loader = if ARCH == "x86_64" {
            "ld-linux-x86-64.so.2"
        } else {
            "ld-linux-aarch64.so.1"
        };
        let mut server = Command::new(outer.join(loader));
        server.arg("--library-path");
        server.arg(format!("{}:{}", outer.display(), inner.display()));
        // `--no-defaults` must be the server's first argument.
        server.arg(self.root.join("usr/sbin/mariadbd"));
        server.args(["--no-defaults", "--user=root"]);
        for (option, path) in [
            ("--basedir", self.root.join("usr")),
            ("--plugin-dir", self.root.join("usr/lib/mysql/plugin")),
            ("--lc-messages-dir", self.scripts()),
            ("--character-sets-dir", self.scripts().join("charsets")),
            ("--datadir", data.to_owned()),
        ] {
            server.arg(format!("{option}={}", path.display()));
        }
        server
    }

    /// Returns the folder with the scripts that create the system tables.
    pub(crate) fn scripts(&self) -> PathBuf {
        self.root.join("usr/share/mysql")
    }
}
