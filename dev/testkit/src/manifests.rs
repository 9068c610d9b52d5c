//! What deploy/kubernetes gives each pod: its command, its environment, and how it is stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

/// All objects of deploy/kubernetes.
pub struct Manifests(Vec<Value>);

/// A pod as its template says.
#[derive(Debug, Clone)]
pub struct Pod {
    pub program: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub replicas: usize,
    /// From the decision to stop it to SIGTERM.
    pub pre_stop: Duration,
    /// After which the kubelet kills it.
    pub grace: Duration,
}

const AS_JSON: &str = "import glob, json, yaml; \
    print(json.dumps([one for path in glob.glob('deploy/kubernetes/*.yaml') for one in yaml.safe_load_all(open(path))]))";

impl Manifests {
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = Command::new("dev/python-yaml.sh")
            .args(["-c", AS_JSON])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            read.status.success(),
            "{}",
            String::from_utf8_lossy(&read.stderr)
        );
        Self(serde_json::from_slice(&read.stdout).unwrap())
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

    /// The pod of a Deployment or Job.
    pub fn pod(&self, name: &str) -> Pod {
        let owner = self.object(&["Deployment", "Job"], name);
        let spec = &owner["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let mut env = BTreeMap::new();
        for source in container["envFrom"].as_array().unwrap() {
            let (kind, field) = if source["configMapRef"].is_object() {
                ("ConfigMap", "data")
            } else {
                ("Secret", "stringData")
            };
            let name = source["configMapRef"]["name"]
                .as_str()
                .or(source["secretRef"]["name"].as_str())
                .unwrap();
            let data = self.object(&[kind], name)[field].as_object().unwrap();
            env.extend(
                data.iter()
                    .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())),
            );
        }
        assert!(
            container["env"].is_null(),
            "settings beside envFrom are not read here"
        );
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
