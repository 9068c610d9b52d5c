//! An operator's shell that runs commands from the documentation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use firstcome_stack::{built_program, put_clients};
use tempfile::TempDir;
use tokio::process::Command;

use crate::world::World;

/// Runs commands in a temporary folder with the product's programs, the stores' clients, the folder
/// `deploy` and a world's settings.
pub struct OperatorsShell {
    folder: TempDir,
    env: BTreeMap<String, String>,
}

impl OperatorsShell {
    pub async fn of(world: &World) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("firstcome-shell-")
            .tempdir()
            .unwrap();
        let programs = folder.path().join("bin");
        std::fs::create_dir(&programs).unwrap();
        for name in ["firstcome-api", "firstcome-reconciler"] {
            std::os::unix::fs::symlink(built_program(name).unwrap(), programs.join(name)).unwrap();
        }
        std::os::unix::fs::symlink(sources().join("deploy"), folder.path().join("deploy")).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        tokio::task::spawn_blocking(move || put_clients(&programs))
            .await
            .unwrap()
            .unwrap();
        let mut env = world.system.settings();
        env.insert("PATH".into(), path);
        Self { folder, env }
    }

    /// Sets a variable for all later commands.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.into(), value.into());
    }

    /// Runs commands in the folder and returns their output. A failing command fails the test.
    pub async fn run(&self, commands: &str) -> String {
        let script = format!("set -euo pipefail\n{commands}");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script])
            .env_clear()
            .envs(&self.env)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        let output = bash.kill_on_drop(true).output().await.unwrap();
        let [stdout, stderr] = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(output.status.success(), "{commands}\n{stdout}\n{stderr}");
        stdout
    }
}

/// Returns the commands of a section of docs/OPERATIONS.md: its `sh` blocks, in order.
pub fn commands_of(section: &str) -> Vec<String> {
    let text = std::fs::read_to_string(sources().join("docs/OPERATIONS.md")).unwrap();
    let (_, rest) = text
        .split_once(&format!("\n## {section}\n"))
        .unwrap_or_else(|| panic!("no section {section}"));
    let section = rest.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

fn sources() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
