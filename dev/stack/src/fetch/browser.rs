//! A browser with its driver and a Korean font, from the distribution, and axe, an accessibility
//! checker, from Maven.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::apt;
use super::command::{exists, run};
use crate::{cache, progress};

const AXE: &str = "4.11.1";
const UNPACK: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:unpack";

/// Ensures that `chromium` and `chromedriver` of the same version are installed.
pub(crate) fn browser() -> Result<()> {
    if exists("chromium") && exists("chromedriver") {
        return Ok(());
    }
    apt::install(&["chromium", "chromium-driver", "fonts-nanum"])
}

/// Returns the script of axe-core. It has the MPL licence, so only tests use it, and no program
/// contains it.
pub(crate) fn axe() -> Result<PathBuf> {
    let dir = cache::get(&format!("axe-{AXE}"), |part| {
        if !exists("mvn") {
            apt::install(&["maven"])?;
        }
        progress::step("axe", format!("downloading {AXE} with Maven"));
        let repository = part.join("repository");
        let mut maven = Command::new("mvn");
        // Without a project, the plugin records the unpacked artifacts in a folder with this name.
        maven.current_dir(part);
        maven
            .args(["--batch-mode", "--no-transfer-progress", UNPACK])
            .arg("-Dmdep.unpack.includes=axe.min.js");
        maven.arg(format!("-Dartifact=com.deque.html.axe-core:selenium:{AXE}"));
        maven.arg(format!("-DoutputDirectory={}", part.display()));
        maven.arg(format!("-Dmaven.repo.local={}", repository.display()));
        run(&mut maven)?;
        Ok(std::fs::remove_dir_all(repository)
            .and(std::fs::remove_dir_all(part.join("${project.basedir}")))?)
    })?;
    Ok(dir.join("axe.min.js"))
}
