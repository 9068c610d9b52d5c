//! Kafka: its jars, resolved by Maven, and a Java runtime from the distribution.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::{installed, maven, run, step};
use crate::cache;
use crate::janitor::Janitor;
use crate::ports::ReservedPort;
use crate::process::{CommandLine, POLL, ServerProcess};

pub(super) const VERSION: &str = "4.1.0";

/// The names of the client listeners, one for each client port.
const LISTENERS: [&str; 3] = ["PLAINTEXT", "SECOND", "THIRD"];

/// The user and password for listeners that require a login.
pub(crate) const KAFKA_USER: &str = "firstcome";
pub(crate) const KAFKA_PASSWORD: &str = "password-of-tests";

/// Any valid ID, because every private Kafka is a separate cluster.
const CLUSTER_ID: &str = "Rmlyc3Rjb21lLXN0YWNrMQ";

/// The jars of one Kafka version.
#[derive(Debug)]
pub(crate) struct Kafka {
    jars: PathBuf,
}

/// Returns the Kafka of the cache folder, which is fetched if necessary.
pub(crate) fn kafka() -> Result<Kafka> {
    installed(&["java"], &["default-jre-headless"])?;
    let dir = cache::get(&format!("kafka-{VERSION}"), |part| {
        step(
            "kafka",
            format!("downloading {VERSION} with Maven (about 43 MB)"),
        );
        let pom = part.join("pom.xml");
        fs::write(
            &pom,
            include_str!("kafka-pom.xml").replace("@VERSION@", VERSION),
        )?;
        let pom = format!("--file={}", pom.display());
        maven(
            "copy-dependencies",
            [&pom, "-DincludeScope=runtime"],
            part,
            &part.join("jars"),
        )
    })?;
    Ok(Kafka {
        jars: dir.join("jars"),
    })
}

impl Kafka {
    /// Returns the command that does what `kafka-consumer-groups.sh` does. No server needs it, so
    /// its jar is fetched on first use.
    pub(crate) fn consumer_groups(&self) -> Result<CommandLine> {
        let tools = cache::get(&format!("kafka-tools-{VERSION}"), |part| {
            let artifact = format!("-Dartifact=org.apache.kafka:kafka-tools:{VERSION}");
            step("kafka", "downloading its command-line tools with Maven");
            maven("copy", [&artifact], part, &part.join("jars"))
        })?;
        let mut path = self.jars.join("*").into_os_string();
        path.push(":");
        path.push(tools.join("jars").join("*"));
        let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        Ok([
            "java".into(),
            "-XX:TieredStopAtLevel=1".into(),
            "-cp".into(),
            path,
            class.into(),
        ]
        .into())
    }

    /// Returns the command of a broker. Its classes are mapped into memory ("class data sharing"),
    /// so startup takes 1.6 s of CPU instead of 2.6 s. A Java other than the one that wrote the
    /// archive loads the classes one by one. `heap` is a Java option that replaces the default of
    /// 384 MB.
    pub(crate) fn broker(&self, heap: Option<&str>, properties: &Path) -> Result<CommandLine> {
        let mut archive = OsString::from("-XX:SharedArchiveFile=");
        archive.push(self.classes()?);
        let options = heap.map(OsString::from).into_iter().chain([archive]);
        Ok(self.java(options, "kafka.Kafka", properties))
    }

    /// Returns the command of a Kafka class, in a JVM that starts fast and uses little memory.
    fn java(
        &self,
        options: impl IntoIterator<Item = OsString>,
        class: &str,
        argument: &Path,
    ) -> CommandLine {
        let mut command: CommandLine = [
            "java",
            "-XX:-UsePerfData",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Xmx384m",
        ]
        .map(Into::into)
        .into();
        command.extend(options);
        command.extend(
            [
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
            ]
            .map(Into::into),
        );
        command.extend([
            "-cp".into(),
            self.jars.join("*").into(),
            class.into(),
            argument.into(),
        ]);
        command
    }

    /// Returns a formatted log folder. Each broker copies it, because formatting takes a second. It
    /// contains a SCRAM user, and no address, since the voters are static.
    pub(crate) fn log_template(&self) -> Result<PathBuf> {
        let dir = cache::get(&format!("kafka-log-with-user-{VERSION}"), |part| {
            step("kafka", "formatting a log folder");
            let file = part.join("server.properties");
            fs::write(
                &file,
                properties(&part.join("data"), 1, &[9093], &[(9092, 9092)]),
            )?;
            let mut line = self.java(None, "kafka.tools.StorageTool", Path::new("format"));
            line.extend(["-t", CLUSTER_ID, "-c"].map(Into::into));
            line.push(file.into());
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                let user = format!("{mechanism}=[name={KAFKA_USER},password={KAFKA_PASSWORD}]");
                line.push("--add-scram".into());
                line.push(user.into());
            }
            run(Command::new(line.first().context("no program")?).args(&line[1..]))?;
            Ok(())
        })?;
        Ok(dir.join("data"))
    }

    /// Returns the class data archive. A JVM writes the archive when it ends, so a broker is
    /// started and stopped once to create it.
    pub(crate) fn classes(&self) -> Result<PathBuf> {
        let template = self.log_template()?;
        let dir = cache::get(&format!("kafka-classes-{VERSION}"), |part| {
            step("kafka", "noting which classes a broker loads");
            run(Command::new("cp")
                .arg("-r")
                .arg(template)
                .arg(part.join("data")))?;
            let [port, controller] = [ReservedPort::find()?, ReservedPort::find()?];
            let file = part.join("server.properties");
            let log = part.join("log");
            let way = (port.number(), port.number());
            fs::write(
                &file,
                properties(&part.join("data"), 1, &[controller.number()], &[way]),
            )?;
            let mut option = OsString::from("-XX:ArchiveClassesAtExit=");
            option.push(part.join("classes.jsa"));
            let command = self.java([option], "kafka.Kafka", &file);
            let broker = ServerProcess::start_server(&Janitor::start()?, &command, part, &log)?;
            let mut signalled = false;
            while broker.ended()?.is_none() {
                if !signalled && fs::read_to_string(&log)?.contains("Kafka Server started") {
                    broker.signal(Signal::TERM)?;
                    signalled = true;
                }
                sleep(POLL);
            }
            Ok(fs::remove_dir_all(part.join("data"))?)
        })?;
        Ok(dir.join("classes.jsa"))
    }
}

/// Returns the properties of a broker. Nodes are numbered from 1, and each is also a controller.
/// `ways` has the port and the advertised port of each listener.
pub(crate) fn properties(
    data: &Path,
    node: usize,
    controllers: &[u16],
    ways: &[(u16, u16)],
) -> String {
    let named = |port: fn(&(u16, u16)) -> u16| {
        let all = LISTENERS
            .iter()
            .zip(ways)
            .map(|(name, way)| format!("{name}://127.0.0.1:{}", port(way)));
        all.collect::<Vec<_>>().join(",")
    };
    let voters = (1..)
        .zip(controllers)
        .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
        .collect::<Vec<_>>();
    format!(
        "{fixed}\
         node.id={node}\n\
         log.dirs={dir}\n\
         controller.quorum.voters={voters}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={advertised}\n",
        fixed = include_str!("../kafka.properties"),
        dir = data.display(),
        voters = voters.join(","),
        listeners = named(|(port, _)| *port),
        controller = controllers.get(node - 1).copied().unwrap_or_default(),
        advertised = named(|(_, advertised)| *advertised),
    )
}
