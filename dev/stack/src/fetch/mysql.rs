//! MySQL 9: Debian packages of a newer suite that are unpacked and run through their own loader.

use std::env::{self, consts::ARCH};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{apt, run, step};
use crate::cache;
use crate::process::CommandLine;

/// The suite that has MySQL. Debian's stable releases have only MariaDB.
const SUITE: &str = "sid";

/// The version that was tested and that the documentation's figures refer to. Debian's pool keeps
/// only the newest version, so any other is also accepted, unless `REQUIRED=1`.
const TESTED: &str = "9.7.4";

/// Statements that initialise a new data folder.
const FIRST_STATEMENTS: &str = "CREATE DATABASE firstcome;\n";

#[derive(Debug)]
pub(crate) struct Mysql {
    root: PathBuf,
    version: String,
}

/// Returns the MySQL of the cache folder, which is fetched if necessary.
pub(crate) fn mysql() -> Result<Mysql> {
    let dir = cache::get(&format!("mysql-{TESTED}"), |part| {
        let work = part.join("work");
        // Perl is only needed by scripts that nothing here uses.
        let skip = ["perl", "libperl"];
        apt::unpack(
            "mysql",
            &["mysql-server-core", "mysql-client-core"],
            SUITE,
            &skip,
            &work,
            &part.join("root"),
        )?;
        fs::remove_dir_all(work)?;
        let mut command = Mysql {
            root: part.join("root"),
            version: String::new(),
        }
        .program("usr/sbin/mysqld");
        command.push("--version".into());
        let printed = run(&mut to_command(&command))?;
        let mut words = printed.split_whitespace().skip_while(|word| *word != "Ver");
        let version = words
            .nth(1)
            .with_context(|| format!("mysqld calls itself {printed:?}"))?;
        fs::write(part.join("version"), version)?;
        Ok(())
    })?;
    let version = fs::read_to_string(dir.join("version"))?;
    if version.split('-').next() != Some(TESTED) {
        let other = format!("tested with {TESTED}; this is {version}");
        let may_differ = env::var_os("REQUIRED").is_none_or(|set| set.is_empty());
        ensure!(may_differ, other);
        step("mysql", other);
    }
    Ok(Mysql {
        root: dir.join("root"),
        version,
    })
}

impl Mysql {
    /// Returns the command of a program in the unpacked tree. It runs with its own C library,
    /// because the system's is older.
    fn program(&self, path: &str) -> CommandLine {
        let libraries = self.root.join("usr/lib").join(format!("{ARCH}-linux-gnu"));
        let loader = if ARCH == "x86_64" {
            "ld-linux-x86-64.so.2"
        } else {
            "ld-linux-aarch64.so.1"
        };
        let mut search = OsString::from(&libraries);
        search.push(":");
        search.push(libraries.join("mysql"));
        vec![
            libraries.join(loader).into(),
            "--library-path".into(),
            search,
            self.root.join(path).into(),
        ]
    }

    /// Returns the command of `mysql` or `mysqldump`, with the arguments that all servers share.
    pub(crate) fn client(&self, name: &str) -> CommandLine {
        let mut command = self.program(&format!("usr/bin/{name}"));
        // Must be the first argument.
        command.push("--no-defaults".into());
        let mut character_sets = OsString::from("--character-sets-dir=");
        character_sets.push(self.root.join("usr/share/mysql/charsets"));
        command.extend([character_sets, "--default-character-set=utf8mb4".into()]);
        command
    }

    /// Returns the command of `mysqld`, with the arguments that all servers share.
    pub(crate) fn server(&self, data: &Path) -> CommandLine {
        let mut command = self.program("usr/sbin/mysqld");
        // Must be the first argument.
        command.push("--no-defaults".into());
        for (option, path) in [
            ("--basedir=", self.root.join("usr")),
            ("--plugin-dir=", self.root.join("usr/lib/mysql/plugin")),
            ("--lc-messages-dir=", self.root.join("usr/share/mysql")),
            (
                "--character-sets-dir=",
                self.root.join("usr/share/mysql/charsets"),
            ),
            ("--datadir=", data.to_owned()),
        ] {
            let mut argument = OsString::from(option);
            argument.push(path);
            command.push(argument);
        }
        command.extend(["--mysqlx=OFF", "--secure-file-priv=NULL"].map(Into::into));
        if rustix::process::geteuid().is_root() {
            command.push("--user=root".into());
        }
        command
    }

    /// Returns an initialised data folder of this version. Each server copies it, because
    /// initialising takes two seconds and copying a tenth of a second.
    pub(crate) fn data_template(&self) -> Result<PathBuf> {
        let dir = cache::get(&format!("mysql-data-{}", self.version), |part| {
            step("mysql", "initialising a data folder");
            let statements = part.join("init.sql");
            fs::write(&statements, FIRST_STATEMENTS)?;
            let mut command = self.server(&part.join("data"));
            // A small redo log makes the copy small. It grows to its usual size when a server
            // starts for the first time.
            command
                .extend(["--initialize-insecure", "--innodb-redo-log-capacity=8M"].map(Into::into));
            command.push(format!("--init-file={}", statements.display()).into());
            run(&mut to_command(&command))?;
            // This file contains the identity of a server. Each server creates a new one when it
            // starts.
            fs::remove_file(part.join("data/auto.cnf")).or_else(ignore_missing)?;
            Ok(())
        })?;
        Ok(dir.join("data"))
    }
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

pub(crate) fn to_command(line: &CommandLine) -> Command {
    let mut command = Command::new(line.first().cloned().unwrap_or_default());
    command.args(line.iter().skip(1));
    command
}
