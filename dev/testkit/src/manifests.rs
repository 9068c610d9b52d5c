//! Reads the pods of deploy/kubernetes: command, environment, and shutdown.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

/// All objects of deploy/kubernetes.
pub struct Manifests(Vec<Value>);

/// A pod as defined by its template.
#[derive(Debug, Clone)]
pub struct Pod {
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub replicas: usize,
    /// Time from the decision to stop the pod until SIGTERM.
    pub pre_stop: Duration,
    /// Time after which the kubelet kills the pod.
    pub grace: Duration,
}

impl Manifests {
    pub fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") {
                let text = std::fs::read_to_string(path).unwrap();
                let documents = serde_yaml_ng::Deserializer::from_str(&text);
                objects.extend(documents.map(|document| Value::deserialize(document).unwrap()));
            }
        }
        Self(objects)
    }

    fn object(&self, kinds: &[&str], name: &str) -> &Value {
        let is_it = |one: &&Value| {
            kinds.iter().any(|kind| one["kind"] == *kind) && one["metadata"]["name"] == name
        };
        self.0
            .iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("there is no {kinds:?} {name}"))
    }

    /// Returns the pod of a Deployment or Job.
    pub fn pod(&self, name: &str) -> Pod {
        let owner = self.object(&["Deployment", "Job"], name);
        let spec = &owner["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let mut env = BTreeMap::new();
        for setting in container["env"].as_array().unwrap() {
            let reference = &setting["valueFrom"]["secretKeyRef"];
            let value = if reference.is_object() {
                let secret = self.object(&["Secret"], reference["name"].as_str().unwrap());
                &secret["stringData"][reference["key"].as_str().unwrap()]
            } else {
                &setting["value"]
            };
            // A reference may be optional.
            if let Some(value) = value.as_str() {
                let name = setting["name"].as_str().unwrap();
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        let mut command = container["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned());
        let seconds = |value: &Value| Duration::from_secs(value.as_u64().unwrap_or_default());
        Pod {
            program: command.next().unwrap(),
            args: command.collect(),
            env,
            replicas: owner["spec"]["replicas"]
                .as_u64()
                .unwrap_or(1)
                .try_into()
                .unwrap(),
            pre_stop: seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]),
            grace: seconds(&spec["terminationGracePeriodSeconds"]),
        }
    }
}
