//! Kafka: its jars, resolved by Maven, and a Java runtime from the distribution.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt;
use super::command::{exists, run};
use crate::process::CommandLine;
use crate::{cache, progress};

pub(super) const VERSION: &str = "4.1.0";
const OLDEST_JAVA: u32 = 17;
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// Any valid id will do: every private Kafka is a cluster of its own on its own ports.
const CLUSTER_ID: &str = "Rmlyc3Rjb21lLXN0YWNrMQ";

/// The jars of one Kafka version.
#[derive(Debug)]
pub(crate) struct Kafka {
    jars: PathBuf,
}

/// The Kafka of the cache folder, fetched if need be.
pub(crate) fn kafka() -> Result<Kafka> {
    if !exists("java") {
        apt::install(&["default-jre-headless"])?;
    }
    let dir = cache::get(&format!("kafka-{VERSION}"), |part| {
        check_java()?;
        if !exists("mvn") {
            apt::install(&["maven"])?;
        }
        progress::step("kafka", format!("downloading {VERSION} with Maven (about 43 MB)"));
        let pom = part.join("pom.xml");
        fs::write(&pom, include_str!("kafka-pom.xml").replace("@VERSION@", VERSION))?;
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--no-transfer-progress", "--file"]).arg(pom).arg(COPY_DEPENDENCIES);
        maven.arg("-DincludeScope=runtime").arg(format!("-DoutputDirectory={}", part.join("jars").display()));
        // Not the user's own: nothing outside the cache folder changes.
        let repository = part.join("repository");
        maven.arg(format!("-Dmaven.repo.local={}", repository.display()));
        run(&mut maven)?;
        fs::remove_dir_all(repository)?;
        Ok(())
    })?;
    Ok(Kafka { jars: dir.join("jars") })
}

impl Kafka {
    /// A class of Kafka, in a JVM that starts fast and stays small.
    pub(crate) fn java(&self, class: &str) -> CommandLine {
        let mut command: CommandLine =
            ["java", "-XX:-UsePerfData", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx384m"]
                .map(Into::into)
                .into();
        command.extend(
            ["-Dorg.slf4j.simpleLogger.defaultLogLevel=info", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
                .map(Into::into),
        );
        command.extend(["-cp".into(), self.jars.join("*").into(), class.into()]);
        command
    }

    /// A formatted log folder, to be copied: formatting takes a second. It holds no address: the
    /// voters are static.
    pub(crate) fn log_template(&self) -> Result<PathBuf> {
        let dir = cache::get(&format!("kafka-log-{VERSION}"), |part| {
            progress::step("kafka", "formatting a log folder");
            let properties = part.join("server.properties");
            let addresses = format!(
                "log.dirs={}\ncontroller.quorum.voters=1@127.0.0.1:9093\n\
                 listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\n",
                part.join("data").display()
            );
            fs::write(&properties, [include_str!("../kafka.properties"), &addresses].concat())?;
            let line = self.java("kafka.tools.StorageTool");
            let mut command = Command::new(line.first().context("no program")?);
            command.args(&line[1..]).args(["format", "-t", CLUSTER_ID, "-c"]).arg(properties);
            run(&mut command)?;
            Ok(())
        })?;
        Ok(dir.join("data"))
    }
}

fn check_java() -> Result<()> {
    let output = Command::new("java").arg("-version").output().context("cannot run `java`")?;
    let printed = String::from_utf8_lossy(&output.stderr);
    let version = java_version(&printed).with_context(|| format!("`java -version` says {printed:?}"))?;
    if version < OLDEST_JAVA {
        bail!("Kafka {VERSION} needs Java {OLDEST_JAVA} or newer, `java` is {version}: put a newer one first in PATH");
    }
    Ok(())
}

/// 17 for `openjdk version "17.0.15" 2025-04-15`, 8 for `"1.8.0_402"`.
fn java_version(printed: &str) -> Option<u32> {
    let quoted = printed.split('"').nth(1)?;
    let mut parts = quoted.split(['.', '-', '_', '+']).map(str::parse);
    match parts.next()? {
        Ok(1) => parts.next()?.ok(),
        major => major.ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_tells_its_version_in_two_ways() {
        assert_eq!(java_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(java_version("openjdk version \"21-ea\" 2023"), Some(21));
        assert_eq!(java_version("java version \"1.8.0_402\""), Some(8));
        assert_eq!(java_version("nonsense"), None);
    }
}
