//! Reads the settings of each command from the source, because `--help` does not show which of them
//! are secret.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use regex_lite::Regex;

use crate::shell::{files, read};

/// The settings of one command.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) all: BTreeSet<String>,
    pub(crate) secret: BTreeSet<String>,
}

impl Settings {
    /// Parses the settings in the command's modules, and in the shared structures that they name.
    fn parse(own: &str, shared: &str) -> Result<Self> {
        let structure = Regex::new(r"\bstruct (\w+?)Args\b")?;
        let mut text = own.to_owned();
        for begin in structure.captures_iter(shared) {
            let from = begin.get(0).map_or(0, |found| found.start());
            let body = shared[from..].split("\n}").next().unwrap_or_default();
            // Every command writes logs. A structure may be part of another one.
            let name = &begin[1];
            if name == "Log" || text.contains(&format!("{name}Args")) {
                text += body;
            }
        }
        let variable = Regex::new(r#"\benv = "([A-Z0-9_]+)"([^\]]*)\]"#)?;
        let mut settings = Self::default();
        for found in variable.captures_iter(&text) {
            settings.all.insert(found[1].to_owned());
            if found[2].contains("hide_env_values") {
                settings.secret.insert(found[1].to_owned());
            }
        }
        settings.all.insert("RUST_LOG".to_owned());
        Ok(settings)
    }
}

/// Programs and commands, with the folders of their settings.
const COMMANDS: [(&str, &str, &[&str]); 4] = [
    ("firstcome-api", "serve", &["api/src/serve"]),
    ("firstcome-api", "consume", &["api/src/consume"]),
    ("firstcome-api", "migrate", &["api/src/migrate"]),
    (
        "firstcome-reconciler",
        "daemon",
        &["reconciler/src", "notifier/src"],
    ),
];

/// All deployed commands.
pub(crate) struct Programs(BTreeMap<(&'static str, &'static str), Settings>);

impl Programs {
    pub(crate) fn read() -> Result<Self> {
        let shared = source(&["shared/src"])?;
        let settings = COMMANDS.map(|(program, command, folders)| {
            Ok((
                (program, command),
                Settings::parse(&source(folders)?, &shared)?,
            ))
        });
        Ok(Self(settings.into_iter().collect::<Result<_>>()?))
    }

    pub(crate) fn of(&self, program: &str, command: &str) -> Option<&Settings> {
        let of = self
            .0
            .iter()
            .find(|(named, _)| **named == (program, command));
        of.map(|(_, settings)| settings)
    }

    /// Returns the settings that are secret in any command.
    pub(crate) fn secret(&self) -> BTreeSet<String> {
        self.0
            .values()
            .flat_map(|settings| settings.secret.iter().cloned())
            .collect()
    }
}

/// Reads the source of these modules without their tests.
fn source(folders: &[&str]) -> Result<String> {
    let mut source = String::new();
    for folder in folders {
        for path in files(&[&format!("{folder}/*.rs"), &format!("{folder}.rs")])? {
            let text = read(path)?;
            source += text.split("#[cfg(test)]").next().unwrap_or_default();
        }
    }
    Ok(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: &str = r#"
pub(crate) struct RedisArgs {
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    tls: TlsArgs,
}
pub(crate) struct KafkaArgs {
    #[arg(long, env = "KAFKA_BROKERS")]
}
pub(crate) struct LogArgs {
    #[arg(long, env = "LOG_FORMAT")]
}
pub(crate) struct TlsArgs {
    #[arg(long, env = "TLS_CERT_FILE")]
}
"#;

    #[test]
    fn a_command_has_the_shared_settings_that_it_names() {
        let own =
            r#"struct Args { redis: RedisArgs, #[arg(long, env = "LISTEN_ADDR")] listen: String }"#;
        let settings = Settings::parse(own, SHARED).unwrap();
        let all: Vec<_> = settings.all.iter().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "LISTEN_ADDR",
                "LOG_FORMAT",
                "REDIS_URL",
                "RUST_LOG",
                "TLS_CERT_FILE"
            ]
        );
        assert_eq!(settings.secret, BTreeSet::from(["REDIS_URL".to_owned()]));
    }
}
