//! Checks deploy/kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use regex_lite::Regex;
use serde_json::{Map, Value};

use super::compose::strings;
use super::process::{Process, port};
use super::settings::Programs;
use super::{Problems, documents, entries, list, text};
use crate::shell::files;

/// An object and the file that contains it.
struct Object {
    path: String,
    value: Value,
}

pub(crate) fn check(programs: &Programs) -> Result<Problems> {
    let mut objects = Vec::new();
    for path in files(&["deploy/kubernetes/*.yaml"])? {
        let path_of = |value| Object {
            path: path.display().to_string(),
            value,
        };
        objects.extend(documents(&path)?.into_iter().map(path_of));
    }
    problems(&objects, programs)
}

fn problems(objects: &[Object], programs: &Programs) -> Result<Problems> {
    let data = Data::of(objects);
    let mut problems = data.problems(programs);
    let mut used = BTreeSet::new();
    for object in objects.iter().filter(|object| object.is_workload()) {
        let pod = Pod {
            path: &object.path,
            spec: &object.value["spec"]["template"]["spec"],
        };
        problems.extend(pod.problems(&data, programs, &mut used)?);
    }
    let unused = data.0.keys().filter(|key| !used.contains(*key));
    problems.extend(
        unused.map(|(kind, name)| format!("deploy/kubernetes: nothing uses the {kind} {name}")),
    );
    problems.extend(unguarded(objects));
    problems.extend(undrainable(objects));
    problems.extend(selecting_nothing(objects));
    Ok(problems)
}

impl Object {
    fn kind(&self) -> &str {
        text(&self.value["kind"])
    }

    fn name(&self) -> &str {
        text(&self.value["metadata"]["name"])
    }

    fn is_workload(&self) -> bool {
        matches!(self.kind(), "Deployment" | "Job")
    }

    fn labels_of_pods(&self) -> &Value {
        &self.value["spec"]["template"]["metadata"]["labels"]
    }
}

/// The settings of ConfigMaps and Secrets, by kind and name.
struct Data(BTreeMap<(String, String), BTreeMap<String, String>>);

impl Data {
    fn of(objects: &[Object]) -> Self {
        let data = objects
            .iter()
            .filter(|object| matches!(object.kind(), "ConfigMap" | "Secret"));
        Self(
            data.map(|object| {
                let keys = ["data", "stringData"].map(|field| strings(&object.value[field]));
                let key = (object.kind().to_owned(), object.name().to_owned());
                (key, keys.into_iter().flatten().collect())
            })
            .collect(),
        )
    }

    fn problems(&self, programs: &Programs) -> Problems {
        let secret = programs.secret();
        let mut problems = Problems::new();
        for ((kind, name), keys) in &self.0 {
            for key in keys
                .keys()
                .filter(|key| secret.contains(*key) == (kind == "ConfigMap"))
            {
                problems.push(format!("deploy/kubernetes: {key} is in the {kind} {name}"));
            }
            if keys.get("OPS_TOKEN").is_some_and(|value| value.len() >= 32) {
                problems.push(
                    "deploy/kubernetes: start-up would accept the OPS_TOKEN that is published here"
                        .to_owned(),
                );
            }
        }
        problems
    }
}

/// The template of a workload's pods.
struct Pod<'o> {
    path: &'o str,
    spec: &'o Value,
}

impl Pod<'_> {
    fn problems(
        &self,
        data: &Data,
        programs: &Programs,
        used: &mut BTreeSet<(String, String)>,
    ) -> Result<Problems> {
        let mut problems = Problems::new();
        if self.spec["automountServiceAccountToken"] != false {
            problems.push(format!(
                "{}: its pods have a token of the cluster",
                self.path
            ));
        }
        for container in list(&self.spec["containers"]) {
            let place = format!("{}: {}", self.path, text(&container["name"]));
            let mut environment = BTreeMap::new();
            for source in list(&container["envFrom"]) {
                let key =
                    reference(source).with_context(|| format!("{place}: envFrom {source}"))?;
                match data.0.get(&key) {
                    Some(keys) => environment.extend(keys.clone()),
                    None => problems.push(format!("{place}: there is no {} {}", key.0, key.1)),
                }
                used.insert(key);
            }
            let args: Vec<_> = list(&container["args"]).map(text).collect();
            let [program, command, ..] = args[..] else {
                problems.push(format!(
                    "{place}: its args must be a program and a command of it"
                ));
                continue;
            };
            let process = Process {
                place: &place,
                program,
                command,
                environment: &environment,
            };
            problems.extend(process.check(programs));
            problems.extend(self.container(&process, container)?);
        }
        Ok(problems)
    }

    fn container(&self, process: &Process<'_>, container: &Value) -> Result<Problems> {
        let Process { place, command, .. } = process;
        let mut problems = Problems::new();
        let listens = container["ports"][0]["containerPort"].to_string();
        if let Some(port) = port(command).filter(|port| *port != listens) {
            problems.push(format!("{place}: it listens on {port}"));
        }
        problems.extend(self.shutdown(process, container));
        if !Regex::new(":[0-9.]+$|@sha256:")?.is_match(text(&container["image"])) {
            problems.push(format!("{place}: its image has no version"));
        }
        if !self.is_restricted(&container["securityContext"]) {
            problems.push(format!("{place}: its security context is not restricted"));
        }
        if container["resources"]["limits"]["memory"].is_null() {
            problems.push(format!("{place}: its memory has no limit"));
        }
        Ok(problems)
    }

    /// Checks the preStop sleep, because a stopped pod still receives requests for some seconds.
    fn shutdown(&self, process: &Process<'_>, container: &Value) -> Option<String> {
        let delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            .as_i64()
            .unwrap_or(0);
        let grace = self.spec["terminationGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(30);
        let is_asked = matches!(process.command, "serve" | "daemon");
        (is_asked && !(3..=grace - 20).contains(&delay)).then(|| {
            format!(
                "{}: its preStop sleep of {delay} s does not fit its grace period",
                process.place
            )
        })
    }

    fn is_restricted(&self, own: &Value) -> bool {
        let pod = &self.spec["securityContext"];
        pod["runAsNonRoot"] == true
            && pod["seccompProfile"]["type"] == "RuntimeDefault"
            && own["readOnlyRootFilesystem"] == true
            && own["allowPrivilegeEscalation"] == false
            && own["capabilities"]["drop"] == serde_json::json!(["ALL"])
    }
}

/// Returns the ConfigMap or Secret that a source of variables names.
fn reference(source: &Value) -> Option<(String, String)> {
    let (kind, of) = entries(source).next()?;
    let kind = match kind.as_str() {
        "configMapRef" => "ConfigMap",
        "secretRef" => "Secret",
        _ => return None,
    };
    Some((kind.to_owned(), text(&of["name"]).to_owned()))
}

/// Lists pods that no NetworkPolicy selects by all their labels.
fn unguarded(objects: &[Object]) -> Problems {
    let policies = objects
        .iter()
        .filter(|object| object.kind() == "NetworkPolicy");
    let guarded: Vec<_> = policies
        .map(|policy| &policy.value["spec"]["podSelector"]["matchLabels"])
        .collect();
    let labels = objects
        .iter()
        .filter(|object| object.is_workload())
        .map(Object::labels_of_pods);
    labels
        .filter(|labels| !guarded.contains(labels))
        .map(|labels| format!("deploy/kubernetes: no NetworkPolicy guards {labels}"))
        .collect()
}

/// Lists PodDisruptionBudgets that prevent draining a node while pods are not ready.
fn undrainable(objects: &[Object]) -> Problems {
    let budgets = objects.iter().filter(|object| {
        object.kind() == "PodDisruptionBudget"
            && object.value["spec"]["unhealthyPodEvictionPolicy"] != "AlwaysAllow"
    });
    budgets
        .map(|object| {
            format!(
                "{}: PodDisruptionBudget {} keeps pods that are not ready",
                object.path,
                object.name()
            )
        })
        .collect()
}

/// Lists objects whose selector selects no pod.
fn selecting_nothing(objects: &[Object]) -> Problems {
    let pods: Vec<_> = objects
        .iter()
        .filter(|object| object.is_workload())
        .map(Object::labels_of_pods)
        .collect();
    let selects_nothing = |object: &&Object| {
        let wanted = selector(&object.value["spec"]);
        wanted.is_some_and(|wanted| !pods.iter().any(|labels| has_all(labels, wanted)))
    };
    let selecting = objects.iter().filter(selects_nothing);
    selecting
        .map(|object| {
            format!(
                "{}: {} {} selects no pod",
                object.path,
                object.kind(),
                object.name()
            )
        })
        .collect()
}

fn selector(spec: &Value) -> Option<&Map<String, Value>> {
    let selector = ["selector", "podSelector"]
        .iter()
        .find_map(|name| spec.get(name))?;
    let labels = selector
        .get("matchLabels")
        .unwrap_or(selector)
        .as_object()?;
    (!labels.is_empty()).then_some(labels)
}

fn has_all(labels: &Value, wanted: &Map<String, Value>) -> bool {
    wanted
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
kind: ConfigMap
metadata: {name: settings}
data: {LISTEN_ADDR: "0.0.0.0:8082"}
---
kind: NetworkPolicy
metadata: {name: consumer}
spec: {podSelector: {matchLabels: {part: consumer}}}
---
kind: PodDisruptionBudget
metadata: {name: consumer}
spec: {unhealthyPodEvictionPolicy: AlwaysAllow, selector: {matchLabels: {part: consumer}}}
---
kind: Deployment
metadata: {name: consumer}
spec:
  selector: {matchLabels: {part: consumer}}
  template:
    metadata: {labels: {part: consumer}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: consumer
          image: firstcome:0.1.0
          args: [firstcome-api, consume]
          envFrom: [{configMapRef: {name: settings}}]
          ports: [{containerPort: 8082}]
          resources: {limits: {memory: 1Gi}}
          securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

    fn found(manifests: &str) -> Problems {
        let object = |value| Object {
            path: "a.yaml".to_owned(),
            value,
        };
        let objects: Vec<_> = super::super::parse(manifests)
            .unwrap()
            .into_iter()
            .map(object)
            .collect();
        let source =
            r#"#[arg(env = "LISTEN_ADDR")] #[arg(env = "OPS_TOKEN", hide_env_values = true)]"#;
        problems(
            &objects,
            &Programs::of_one("firstcome-api", "consume", source),
        )
        .unwrap()
    }

    #[test]
    fn accepts_valid_manifests() {
        assert!(found(SOUND).is_empty(), "{:?}", found(SOUND));
    }

    #[test]
    fn enforces_each_rule() {
        let cases = [
            (
                "automountServiceAccountToken: false",
                "automountServiceAccountToken: true",
                "token of the cluster",
            ),
            (
                "runAsNonRoot: true",
                "runAsNonRoot: false",
                "not restricted",
            ),
            ("drop: [ALL]", "drop: []", "not restricted"),
            ("firstcome:0.1.0", "firstcome", "no version"),
            (
                "containerPort: 8082",
                "containerPort: 80",
                "listens on 8082",
            ),
            ("{memory: 1Gi}", "{}", "no limit"),
            (
                "name: settings}}]",
                "name: lost}}]",
                "there is no ConfigMap lost",
            ),
            (
                "podSelector: {matchLabels: {part: consumer}}",
                "podSelector: {matchLabels: {part: api}}",
                "no NetworkPolicy",
            ),
            (
                "selector: {matchLabels: {part: consumer}}\n  template",
                "selector: {matchLabels: {part: api}}\n  template",
                "selects no pod",
            ),
            (
                "unhealthyPodEvictionPolicy: AlwaysAllow",
                "maxUnavailable: 1",
                "keeps pods that are not ready",
            ),
            (
                "data: {",
                "data: {OPS_TOKEN: short, ",
                "OPS_TOKEN is in the ConfigMap",
            ),
        ];
        for (from, to, word) in cases {
            let changed = SOUND.replace(from, to);
            assert_ne!(changed, SOUND, "{from}");
            let found = found(&changed);
            assert!(
                found.iter().any(|problem| problem.contains(word)),
                "{word}: {found:?}"
            );
        }
    }
}
