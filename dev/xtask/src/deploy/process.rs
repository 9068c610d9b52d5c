//! Checks a deployed process: its program and settings, whether other processes can reach it, and
//! that it gets no secret that it does not need.

use std::collections::BTreeMap;

use super::Problems;
use super::settings::Programs;

/// The place in the deployment, the command and the environment.
pub(crate) struct Process<'p> {
    pub(crate) place: &'p str,
    pub(crate) program: &'p str,
    pub(crate) command: &'p str,
    pub(crate) environment: &'p BTreeMap<String, String>,
}

/// The setting for the listening address.
pub(crate) const LISTEN: &str = "LISTEN_ADDR";

/// The port of each command that listens, the same in all deployments.
pub(crate) const PORTS: [(&str, &str); 3] =
    [("serve", "8080"), ("consume", "8082"), ("daemon", "8081")];

pub(crate) fn port(command: &str) -> Option<&'static str> {
    PORTS
        .iter()
        .find(|(of, _)| *of == command)
        .map(|(_, port)| *port)
}

/// The only secrets that consumers and migrations get.
const FEW: [&str; 4] = [
    "DATABASE_URL",
    "KAFKA_PROPERTIES",
    "KAFKA_SASL_PASSWORD",
    "KAFKA_SIGNING_KEY",
];

impl Process<'_> {
    pub(crate) fn check(&self, programs: &Programs) -> Problems {
        let Self {
            place,
            program,
            command,
            environment,
        } = self;
        let Some(settings) = programs.of(program, command) else {
            return vec![format!("{place}: there is no {program} {command}")];
        };
        let mut problems = Problems::new();
        for name in environment.keys().filter(|name| !settings.has(name)) {
            problems.push(format!(
                "{place}: {program} {command} has no setting {name}"
            ));
        }
        if let Some(port) = port(command) {
            let wanted = format!("0.0.0.0:{port}");
            if environment.get(LISTEN) != Some(&wanted) {
                problems.push(format!("{place}: {LISTEN} must be {wanted}"));
            }
        }
        if matches!(*command, "consume" | "migrate") {
            let secret = programs.secret();
            let too_many = environment
                .keys()
                .filter(|name| secret.contains(*name) && !FEW.contains(&name.as_str()));
            problems.extend(
                too_many.map(|name| format!("{place}: it does not need the secret {name}")),
            );
        }
        if *command == "daemon" {
            for name in ["PUBLIC_URL", "API_PUBLIC_URL"] {
                if environment.get(name).is_none_or(String::is_empty) {
                    problems.push(format!(
                        "{place}: {name} is not set, so links in mails point to the reader's machine"
                    ));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
        #[arg(long, env = "LISTEN_ADDR")] #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    "#;

    fn problems(command: &str, environment: &[(&str, &str)]) -> Problems {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let process = Process {
            place: "here",
            program: "firstcome-api",
            command,
            environment: &environment,
        };
        process.check(&Programs::of_one("firstcome-api", "consume", SOURCE))
    }

    #[test]
    fn a_process_listens_at_its_port_and_has_only_its_settings_and_secrets() {
        let listens = ("LISTEN_ADDR", "0.0.0.0:8082");
        assert!(problems("consume", &[listens]).is_empty());
        assert_eq!(
            problems("consume", &[]),
            ["here: LISTEN_ADDR must be 0.0.0.0:8082"]
        );
        assert_eq!(
            problems(
                "consume",
                &[listens, ("COUPON_PAGES", "on"), ("OPS_TOKEN", "x")]
            ),
            [
                "here: firstcome-api consume has no setting COUPON_PAGES",
                "here: it does not need the secret OPS_TOKEN"
            ]
        );
        assert_eq!(
            problems("produce", &[]),
            ["here: there is no firstcome-api produce"]
        );
    }
}
