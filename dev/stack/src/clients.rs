//! The stores' command-line clients, as operators use them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Result;

use crate::fetch;
use crate::process::CommandLine;

/// Puts `mysql`, `mysqldump` and `kafka-consumer-groups.sh` into a folder for `PATH`. MySQL's
/// clients connect to 127.0.0.1 at the port `MYSQL_TCP_PORT`, as `MYSQL_LOGIN` or `root`. Blocks.
pub fn put_clients(folder: &Path) -> Result<()> {
    for name in ["mysql", "mysqldump"] {
        let mut command = fetch::mysql()?.client(name);
        let address = [
            "--protocol=TCP",
            "--host=127.0.0.1",
            "--get-server-public-key",
        ];
        command.extend(address.map(Into::into));
        put(&folder.join(name), &command, "--user=${MYSQL_LOGIN:-root} ")?;
    }
    put(
        &folder.join("kafka-consumer-groups.sh"),
        &fetch::kafka()?.consumer_groups()?,
        "",
    )
}

fn put(path: &Path, command: &CommandLine, more: &str) -> Result<()> {
    let words: Vec<String> = command
        .iter()
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
        .collect();
    fs::write(
        path,
        format!("#!/bin/sh\nexec {} {more}\"$@\"\n", words.join(" ")),
    )?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}
