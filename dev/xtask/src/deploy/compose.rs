//! Checks docker-compose.yml.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use regex_lite::Regex;
use serde_json::Value;

use super::process::{PORTS, Process};
use super::settings::Programs;
use super::{Problems, documents, entries, list, text};
use crate::shell::read;

const FILE: &str = "docker-compose.yml";
const EXAMPLE: &str = ".env.example";

pub(crate) fn check(programs: &Programs) -> Result<Problems> {
    let file = documents(Path::new(FILE))?
        .into_iter()
        .next()
        .context("docker-compose.yml is empty")?;
    let mut problems = unknown_variables(&read(FILE)?, &read(EXAMPLE)?)?;
    for (name, service) in entries(&file["services"]) {
        let service = Service {
            place: format!("{FILE}: {name}"),
            service,
            file: &file,
        };
        problems.extend(service.problems(programs)?);
    }
    Ok(problems)
}

/// Lists variables of the file that are missing from the example.
fn unknown_variables(file: &str, example: &str) -> Result<Problems> {
    let known: BTreeSet<_> = example
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0.trim_start_matches(['#', ' '])))
        .collect();
    let variable = Regex::new(r"\$\{([A-Z_]+)[:?}-]")?;
    let unknown = variable
        .captures_iter(file)
        .filter(|found| !known.contains(&found[1]));
    Ok(unknown
        .map(|found| format!("{FILE}: ${{{}}} is not in {EXAMPLE}", &found[1]))
        .collect())
}

struct Service<'f> {
    place: String,
    service: &'f Value,
    file: &'f Value,
}

impl Service<'_> {
    fn problems(&self, programs: &Programs) -> Result<Problems> {
        let Self { place, service, .. } = self;
        let mut problems = self.dependencies();
        problems.extend(self.volumes());
        problems.extend(self.passwords()?);
        problems.extend(self.published());
        if service["image"].is_null() && service["build"].is_null() {
            problems.push(format!("{place} has neither image nor build"));
        }
        let image = text(&service["image"]);
        if image == "firstcome" {
            problems.extend(self.own(programs));
        } else if !Regex::new(r":v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+)?$")?.is_match(image) {
            problems.push(format!("{place}: {image} is no exact version"));
        }
        Ok(problems)
    }

    fn dependencies(&self) -> Problems {
        let Self {
            place,
            service,
            file,
        } = self;
        let problem = |(other, how): (&String, &Value)| {
            let depended_on = &file["services"][other];
            if depended_on.is_null() {
                return Some(format!("{place} waits for {other}, which is no service"));
            }
            let needs_health = how["condition"] == "service_healthy";
            (needs_health && depended_on["healthcheck"].is_null()).then(|| {
                format!("{place} waits for the health of {other}, which has no healthcheck")
            })
        };
        entries(&service["depends_on"])
            .filter_map(problem)
            .collect()
    }

    fn volumes(&self) -> Problems {
        let Self {
            place,
            service,
            file,
        } = self;
        let sources = list(&service["volumes"]).filter_map(|volume| text(volume).split(':').next());
        sources
            .filter(|source| !source.starts_with(['.', '/']))
            .filter(|source| file["volumes"].get(source).is_none())
            .map(|source| format!("{place} uses the volume {source}, which is not declared"))
            .collect()
    }

    /// Lists passwords in arguments, which every user of the machine can see.
    fn passwords(&self) -> Result<Problems> {
        let Self { place, service, .. } = self;
        let password = Regex::new(r#"(--requirepass|--password|-p|-a)[ =]?["']?\$"#)?;
        let arguments = list(&service["command"]).chain(list(&service["healthcheck"]["test"]));
        let found = arguments.filter(|argument| password.is_match(text(argument)));
        Ok(found
            .map(|_| format!("{place}: the arguments of a process contain a password"))
            .collect())
    }

    /// Checks the published ports. docs/OPERATIONS.md lists the port of each program.
    fn published(&self) -> Problems {
        let Self { place, service, .. } = self;
        let mut problems = Problems::new();
        for published in list(&service["ports"]) {
            let parts: Vec<_> = text(published).split(':').collect();
            let [host, port, inner] = parts[..] else {
                problems.push(format!("{place}: the port {published} has no host address"));
                continue;
            };
            if host != "127.0.0.1" {
                problems.push(format!("{place}: {port} is published to other machines"));
            }
            if port != inner && PORTS.iter().any(|(_, usual)| *usual == port) {
                problems.push(format!(
                    "{place}: {port} is the usual port of another program"
                ));
            }
        }
        problems
    }

    /// Checks a process of our image.
    fn own(&self, programs: &Programs) -> Problems {
        let Self { place, service, .. } = self;
        let command: Vec<_> = list(&service["command"]).map(text).collect();
        let [program, command, ..] = command[..] else {
            return vec![format!(
                "{place}: its command must be a program and a command of it"
            )];
        };
        let environment = strings(&service["environment"]);
        let process = Process {
            place,
            program,
            command,
            environment: &environment,
        };
        process.check(programs)
    }
}

/// Returns names and values in the format of environment variables.
pub(crate) fn strings(values: &Value) -> BTreeMap<String, String> {
    let as_text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    entries(values)
        .map(|(name, value)| (name.clone(), as_text(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(service: &Value) -> Problems {
        let file = json!({"services": {"redis": {}}, "volumes": {"data": null}});
        let service = Service {
            place: "here".to_owned(),
            service,
            file: &file,
        };
        service
            .problems(&Programs::of_one("firstcome-api", "migrate", ""))
            .unwrap()
    }

    #[test]
    fn accepts_a_valid_service() {
        let sound = json!({"image": "redis:7.4.5", "ports": ["127.0.0.1:6379:6379"], "volumes": ["data:/data", "./x:/x"]});
        assert!(problems(&sound).is_empty());
        assert!(
            problems(&json!({"image": "firstcome", "command": ["firstcome-api", "migrate"]}))
                .is_empty()
        );
    }

    #[test]
    fn enforces_each_rule() {
        let cases = [
            (json!({"image": "redis:latest"}), "no exact version"),
            (
                json!({"image": "redis:7.4.5", "ports": ["0.0.0.0:1:1"]}),
                "other machines",
            ),
            (
                json!({"image": "redis:7.4.5", "ports": ["127.0.0.1:8080:81"]}),
                "usual port",
            ),
            (
                json!({"image": "redis:7.4.5", "volumes": ["lost:/data"]}),
                "not declared",
            ),
            (
                json!({"image": "redis:7.4.5", "command": ["--requirepass $$PASSWORD"]}),
                "password",
            ),
            (
                json!({"image": "redis:7.4.5", "depends_on": {"kafka": {}}}),
                "no service",
            ),
            (
                json!({"image": "redis:7.4.5", "depends_on": {"redis": {"condition": "service_healthy"}}}),
                "no healthcheck",
            ),
            (
                json!({"image": "firstcome", "command": ["firstcome-api", "nothing"]}),
                "there is no",
            ),
        ];
        for (service, word) in cases {
            let found = problems(&service);
            assert!(
                found.len() == 1 && found[0].contains(word),
                "{word}: {found:?}"
            );
        }
        let unknown = unknown_variables("x: ${LOST:-1} ${KNOWN}", "# KNOWN=1\n").unwrap();
        assert_eq!(
            unknown,
            ["docker-compose.yml: ${LOST} is not in .env.example"]
        );
    }
}
