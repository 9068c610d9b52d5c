//! The Helm chart: the real programs work together with exactly the arguments and the environment
//! of the pods that it renders, and stop within the time that the kubelet gives them.

use std::collections::BTreeMap;
use std::path::Path;

use firstcome_harness::{ApiClient, Process, SIGNING_KEY};
use serde::Deserialize as _;

use crate::prelude::*;

/// Reads all objects that the chart renders (`cargo xtask helm render`), and their Secret.
fn manifests() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/operations/chart");
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml") {
            let text = std::fs::read_to_string(path).unwrap();
            let documents = serde_yaml_ng::Deserializer::from_str(&text);
            objects.extend(documents.map(|document| Value::deserialize(document).unwrap()));
        }
    }
    objects
}

/// A pod as defined by its template, adapted to this machine.
struct Pod {
    program: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    /// Time from SIGTERM until the kubelet kills the pod.
    grace: Duration,
}

impl Pod {
    /// Returns the pod of a Deployment or Job. Replaces store addresses, the listening address and
    /// secrets, and adds names that isolate this test from others.
    fn of(all: &[Value], name: &str, world: &World) -> Self {
        let object = |kinds: [&str; 2], name: &str| {
            let is_it = |one: &&Value| {
                kinds.iter().any(|kind| one["kind"] == *kind) && one["metadata"]["name"] == name
            };
            all.iter().find(is_it).unwrap()
        };
        let spec = &object(["Deployment", "Job"], name)["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let mut env = BTreeMap::new();
        for setting in container["env"].as_array().unwrap() {
            let secret = &setting["valueFrom"]["secretKeyRef"];
            let value = match secret["key"].as_str() {
                Some(key) => {
                    let name = secret["name"].as_str().unwrap();
                    &object(["Secret"; 2], name)["stringData"][key]
                }
                None => &setting["value"],
            };
            // A reference may be optional.
            if let Some(value) = value.as_str() {
                let name = setting["name"].as_str().unwrap();
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        let words = container["args"].as_array().unwrap().iter();
        // This Kafka has one broker.
        let words = words.filter(|word| !word.as_str().unwrap().starts_with("--replication"));
        let mut command = words.map(|word| word.as_str().unwrap().to_owned());
        let program = command.next().unwrap();
        let args: Vec<String> = command.collect();
        let stores = ["DATABASE_URL", "REDIS_URL", "KAFKA_BROKERS", "SMTP_URL"];
        let stores = stores.map(|name| (name, world.setting(name)));
        let replaced = [
            ("OPS_TOKEN", OPS_TOKEN),
            ("KAFKA_SIGNING_KEY", SIGNING_KEY),
            ("LISTEN_ADDR", "127.0.0.1:0"),
            ("METRICS_ADDR", "127.0.0.1:0"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        for (name, value) in stores.into_iter().chain(replaced) {
            env.entry(name.to_owned())
                .and_modify(|given| *given = value);
        }
        // Only these two processes know the prefix of keys.
        let uses_redis = args == ["serve"] || args == ["daemon"];
        let apart = ["KAFKA_TOPIC", "KAFKA_GROUP", "REDIS_KEY_PREFIX"];
        let apart = &apart[..2 + usize::from(uses_redis)];
        env.extend(
            apart
                .iter()
                .map(|name| ((*name).to_owned(), world.setting(name))),
        );
        let seconds = |value: &Value| value.as_u64().unwrap_or_default();
        let pre_stop = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
        let grace = seconds(&spec["terminationGracePeriodSeconds"]).checked_sub(pre_stop);
        Self {
            program,
            args,
            env,
            grace: Duration::from_secs(grace.expect("time to stop in")),
        }
    }

    fn start(&self, world: &World) -> Process {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let command = world.system.command_of(&self.program, &args, &self.env);
        world.launch(&self.program, &args, command)
    }
}

#[tokio::test]
async fn pods_work_with_the_environment_of_the_manifests_and_stop_in_time() {
    let all = manifests();
    let world = World::bare(WorldStores::shared().await, "deployed").await;
    let migrate = Pod::of(&all, "firstcome-migrate", &world).start(&world);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    let started = async |name| {
        let pod = Pod::of(&all, name, &world);
        let process = pod.start(&world);
        let base = process.line("listening on ").await;
        let http = Http::new(&base);
        eventually("the pod is ready", LIMIT, async || {
            http.get("/readyz").await.status == 200
        })
        .await;
        (pod, process, base)
    };
    let (api, consumer, daemon) = tokio::join!(
        started("firstcome-api"),
        started("firstcome-consumer"),
        started("firstcome-reconciler"),
    );
    let client: ApiClient = world.client(&api.2);
    let coupon = client.open_coupon(50).await;
    rush_until_answered(&[&client], coupon.id, &people(50), 10).await;
    all_issued(&world, coupon.drop, 50).await;
    assert_exact(&world, &coupon, 50).await;
    for (pod, process, _) in [api, consumer, daemon] {
        process.signal(rustix::process::Signal::TERM);
        assert_eq!(process.ended(pod.grace).await, 0, "{}", process.log());
    }
}

/// By default, systemd gives up after five starts in ten seconds. A wrong password or an
/// unavailable store would then stop a service permanently.
#[test]
fn systemd_restarts_services_without_a_limit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    let mut services = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let unit = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let (head, service) = unit.split_once("[Service]").unwrap();
        if !service.contains("Type=oneshot") {
            services += 1;
            assert!(service.contains("\nRestart=always\n"), "{unit}");
            assert!(head.contains("\nStartLimitIntervalSec=0\n"), "{unit}");
        }
    }
    assert_eq!(services, 4);
}
