//! PostgreSQL, as a database of systems that are not Firstcome's.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use tokio_postgres::{Client, NoTls};

use crate::fetch;
use crate::process::CommandLine;
use crate::server::{Instance, Server, ServerKind};

/// Options for starting PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Additional settings, such as `["log_statement=all"]`.
    pub settings: Vec<String>,
}

/// A private PostgreSQL with user `postgres` without a password. It writes without fsync.
pub type PostgresServer = Server<PostgresOptions>;

impl PostgresServer {
    /// `postgres://postgres@127.0.0.1:PORT/NAME`
    pub fn url(&self, database: &str) -> String {
        url(&self.instance, database)
    }

    /// Connects to a database.
    pub async fn client(&self, database: &str) -> Result<Client> {
        client(&self.url(database)).await
    }
}

fn url(instance: &Instance, database: &str) -> String {
    format!(
        "postgres://postgres@127.0.0.1:{}/{database}",
        instance.port()
    )
}

async fn client(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with its client.
    tokio::spawn(connection);
    Ok(client)
}

/// The folders of Debian's packages, one a version.
const VERSIONS: &str = "/usr/lib/postgresql";

fn program(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir(VERSIONS)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    versions.sort();
    let newest = versions.pop().context("no version is installed")?;
    Ok(newest.join("bin").join(name))
}

/// Runs a program as user `postgres`, because PostgreSQL refuses to run as root.
fn unprivileged(program: &Path) -> CommandLine {
    let setpriv = [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
    ];
    let as_user = setpriv.iter().filter(|_| geteuid().is_root());
    let as_user = as_user.map(|word| (*word).into());
    as_user.chain([program.into()]).collect()
}

impl ServerKind for PostgresOptions {
    const NAME: &'static str = "postgres";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        fetch::postgres()?;
        if geteuid().is_root() {
            let user = fetch::user_id("postgres")?;
            for folder in [&instance.dir, &instance.data] {
                chown(folder, Some(user), None)?;
            }
            let shared = instance.dir.parent().context("a server has a folder")?;
            fs::set_permissions(shared, fs::Permissions::from_mode(0o711))?;
        }
        let mut words = unprivileged(&program("initdb")?).into_iter();
        let mut initdb = Command::new(words.next().context("a program has a name")?);
        initdb.args(words).arg("-D").arg(&instance.data);
        initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]);
        let made = initdb.current_dir("/").output()?;
        let why = String::from_utf8_lossy(&made.stderr);
        ensure!(made.status.success(), "initdb failed: {why}");
        Ok(())
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let mut command = unprivileged(&program("postgres")?);
        command.extend(["-D".into(), instance.data.clone().into()]);
        let port = format!("port={}", instance.port());
        let sockets = format!("unix_socket_directories={}", instance.dir.display());
        let fixed = [&port, &sockets, "listen_addresses=127.0.0.1", "fsync=off"];
        let settings = self.settings.iter().map(String::as_str);
        for setting in fixed.into_iter().chain(settings) {
            command.extend(["-c".into(), setting.into()]);
        }
        Ok(command)
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        let client = client(&url(instance, "postgres")).await?;
        client.simple_query("SELECT 1").await?;
        Ok(())
    }
}
