//! MariaDB, as a database of systems that are not Firstcome's.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::fetch::Mariadb;
use crate::mysql::{mysql_rows, with_database};
use crate::process::CommandLine;
use crate::server::{Instance, Server, ServerKind};

/// The files of Debian's package that create the system tables.
const SYSTEM: [&str; 2] = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"];

#[derive(Debug, Clone, Default)]
pub struct MariadbOptions;

/// A private MariaDB with user `root` without a password. It writes without fsync.
pub type MariadbServer = Server<MariadbOptions>;

impl MariadbServer {
    /// `mysql://root@127.0.0.1:PORT/NAME`
    pub fn database_url(&self, name: &str) -> String {
        with_database(&url(&self.instance), name)
    }
}

fn url(instance: &Instance) -> String {
    format!("mysql://root@127.0.0.1:{}/", instance.port())
}

impl ServerKind for MariadbOptions {
    const NAME: &'static str = "mariadb";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        let mariadb = Mariadb::fetch()?;
        let mut system = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n\
            SET @skip_auth_anonymous = 1;\n"
            .to_owned();
        for file in SYSTEM {
            system += &fs::read_to_string(mariadb.scripts().join(file))?;
        }
        let statements = instance.dir.join("system.sql");
        fs::write(&statements, system)?;
        let mut bootstrap: Command = mariadb.server(&instance.data);
        bootstrap.arg("--bootstrap").stdin(File::open(&statements)?);
        let made = bootstrap
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(made.success(), "MariaDB was not made: {made}");
        Ok(())
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let server = Mariadb::fetch()?.server(&instance.data);
        let mut command: CommandLine = vec![server.get_program().into()];
        command.extend(server.get_args().map(Into::into));
        let option = |name: &str, path: &Path| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        command.push(option("--socket=", &instance.dir.join("socket")));
        command.push(option("--pid-file=", &instance.dir.join("pid")));
        command.push(format!("--port={}", instance.port()).into());
        command.extend(
            [
                "--bind-address=127.0.0.1",
                "--innodb-flush-log-at-trx-commit=0",
            ]
            .map(Into::into),
        );
        Ok(command)
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        mysql_rows(&url(instance), "SELECT 1").await?;
        Ok(())
    }
}
