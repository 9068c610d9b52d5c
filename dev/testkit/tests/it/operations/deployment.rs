//! deploy/kubernetes as published: runs the real programs with the arguments and environment of
//! their pods, and rolls them out in the same order as Kubernetes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use firstcome_testkit::{
    Answer, Http, LIMIT, MadeCoupon, Manifests, OPS_TOKEN, Pod, Process, PromisedAnswer,
    SIGNING_KEY, World, WorldStores, all_issued, assert_exact, coupon_body, eventually,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use reqwest::{Client, Method};
use rustix::process::Signal;

use super::visitor::{Login, Visitor};

/// Time during which clients still reach a deleted pod, until every node has removed its address.
const LAG: Duration = Duration::from_secs(1);

/// Pause between two requests of a client, because the test covers the roll-out and not the load.
const PAUSE: Duration = Duration::from_millis(10);

/// A Deployment: its pods, and the endpoints of its Service.
struct Deployment<'a> {
    world: &'a World,
    pod: Pod,
    pods: Vec<(Process, String)>,
    endpoints: Arc<Mutex<Vec<String>>>,
}

impl<'a> Deployment<'a> {
    async fn of(
        world: &'a World,
        manifests: &Manifests,
        name: &str,
        more: &[(&str, &str)],
    ) -> Self {
        let pod = here(manifests.pod(name), world, more);
        let pods = join_all((0..pod.replicas).map(|_| started(world, &pod))).await;
        let endpoints = pods.iter().map(|(_, base)| base.clone()).collect();
        Self {
            world,
            pod,
            pods,
            endpoints: Arc::new(Mutex::new(endpoints)),
        }
    }

    /// Replaces the pods one by one. The next new pod starts before the old one has ended.
    async fn roll_out(&mut self) {
        let mut going = Vec::new();
        for (old, base) in std::mem::take(&mut self.pods) {
            let (new, address) = started(self.world, &self.pod).await;
            self.endpoints.lock().push(address.clone());
            self.pods.push((new, address));
            going.push(tokio::spawn(ended(
                old,
                base,
                self.pod.clone(),
                Arc::clone(&self.endpoints),
            )));
        }
        for pod in going {
            pod.await.unwrap();
        }
    }
}

/// Stops a pod in the same way as the kubelet, while its address is removed from the Service.
async fn ended(process: Process, base: String, pod: Pod, endpoints: Arc<Mutex<Vec<String>>>) {
    let begun = Instant::now();
    let leave = async {
        tokio::time::sleep(LAG).await;
        endpoints.lock().retain(|address| *address != base);
    };
    let stop = async {
        tokio::time::sleep(pod.pre_stop).await;
        process.signal(Signal::TERM);
        process.ended(pod.grace.saturating_sub(pod.pre_stop)).await
    };
    let (code, ()) = tokio::join!(stop, leave);
    assert_eq!(code, 0, "{}", process.log());
    assert!(
        begun.elapsed() < pod.grace,
        "the kubelet would have killed it"
    );
}

/// Adapts a pod to this machine: replaces store addresses, the listening address and secrets, and
/// adds names that isolate this test from others.
fn here(mut pod: Pod, world: &World, more: &[(&str, &str)]) -> Pod {
    let own = |name: &str| world.setting(name);
    let replaced = [
        ("DATABASE_URL", own("DATABASE_URL")),
        ("REDIS_URL", own("REDIS_URL")),
        ("KAFKA_BROKERS", own("KAFKA_BROKERS")),
        ("SMTP_URL", own("SMTP_URL")),
        ("OPS_TOKEN", OPS_TOKEN.to_owned()),
        ("KAFKA_SIGNING_KEY", SIGNING_KEY.to_owned()),
        ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
        ("METRICS_ADDR", "127.0.0.1:0".to_owned()),
    ];
    let more = more
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    for (name, value) in replaced.into_iter().chain(more) {
        pod.env
            .entry(name.to_owned())
            .and_modify(|given| *given = value);
    }
    let apart: &[&str] = if pod.args == ["serve"] || pod.args == ["daemon"] {
        &["KAFKA_TOPIC", "KAFKA_GROUP", "REDIS_KEY_PREFIX"]
    } else {
        &["KAFKA_TOPIC", "KAFKA_GROUP"]
    };
    pod.env
        .extend(apart.iter().map(|name| ((*name).to_owned(), own(name))));
    if pod.args == ["daemon"] {
        // This folder replaces the pod's emptyDir.
        pod.env
            .insert("TMPDIR".into(), std::env::temp_dir().display().to_string());
    }
    pod
}

/// Starts a pod. Returns the pod and its address once it is ready.
async fn started(world: &World, pod: &Pod) -> (Process, String) {
    let args: Vec<&str> = pod.args.iter().map(String::as_str).collect();
    let process = world.start_alone(&pod.program, &args, &pod.env);
    let base = process.line("listening on ").await;
    let http = Http::new(&base);
    eventually("the pod is ready", LIMIT, async || {
        http.get("/readyz").await.status == 200
    })
    .await;
    (process, base)
}

/// Simulates users behind a gateway. They claim one after the other at the endpoints of the
/// Service, each on a new connection, until `stop`.
async fn crowd(
    name: &str,
    coupon: i64,
    endpoints: &Mutex<Vec<String>>,
    stop: &AtomicBool,
) -> Vec<PromisedAnswer> {
    let client = Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(LIMIT)
        .no_proxy()
        .build()
        .unwrap();
    let mut answers = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let user = format!("{name}-{n}");
        let base = turn(endpoints, n);
        let request = client.request(Method::POST, format!("{base}/v1/coupons/{coupon}/claims"));
        let request = request.header("x-user-id", &user);
        let reply = Http::try_send(request)
            .await
            .unwrap_or_else(|error| panic!("{user} at {base}: {error:?}"));
        answers.push((user, Answer::of(&reply).unwrap()));
        tokio::time::sleep(PAUSE).await;
    }
    answers
}

fn turn(endpoints: &Mutex<Vec<String>>, n: usize) -> String {
    let now = endpoints.lock();
    now[n % now.len()].clone()
}

/// Simulates an operator who keeps reloading the page at any endpoint of the Service.
async fn watch(visitor: &Visitor, endpoints: &Mutex<Vec<String>>, stop: &AtomicBool) -> usize {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        let base = turn(endpoints, looks);
        assert_eq!(
            visitor.moved_to(&base).get("/").await.status(),
            200,
            "look {looks} at {base}"
        );
        looks += 1;
        tokio::time::sleep(PAUSE).await;
    }
    looks
}

/// Creates a coupon and waits until every API knows it.
async fn made_coupon(api: &Deployment<'_>) -> MadeCoupon {
    let apis: Vec<Http> = api
        .endpoints
        .lock()
        .iter()
        .map(|base| Http::new(base))
        .collect();
    let request =
        apis[0]
            .ops(Method::POST, "/v1/coupons")
            .json(&coupon_body("Winter coupon", 20_000, 0));
    let body = Http::send(request).await.body;
    let number = |value: &serde_json::Value| value.as_i64().unwrap();
    let coupon = MadeCoupon {
        id: number(&body["id"]),
        drop: number(&body["current_drop"]["id"]),
        body,
    };
    for api in &apis {
        let path = format!("/v1/coupons/{}", coupon.id);
        eventually("each API knows the coupon", LIMIT, async || {
            api.get(&path).await.status == 200
        })
        .await;
    }
    coupon
}

#[tokio::test]
async fn manifests_roll_out_without_refused_connections_or_lost_sessions() {
    let manifests = Manifests::read();
    let world = World::bare(WorldStores::shared().await, "deployed").await;
    let migrate = here(manifests.pod("firstcome-migrate"), &world, &[]);
    let migrate = world.start_alone(&migrate.program, &["migrate"], &migrate.env);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    // No user was admitted yet, so the pass need not wait for the publishing deadline.
    world.open().await;

    let mut api = Deployment::of(&world, &manifests, "firstcome-api", &[]).await;
    let api_url = turn(&api.endpoints, 0);
    let to_api = [("API_URL", api_url.as_str())];
    let (mut consumer, mut reconciler) = tokio::join!(
        Deployment::of(&world, &manifests, "firstcome-consumer", &[]),
        Deployment::of(&world, &manifests, "firstcome-reconciler", &to_api),
    );
    let coupon = made_coupon(&api).await;
    let kim = Visitor::by(Login {
        base: &turn(&reconciler.endpoints, 0),
        name: "Kim",
        token: OPS_TOKEN,
        forwarded_for: "",
    })
    .await;
    let csrf = kim.csrf().await;

    let stop = AtomicBool::new(false);
    let people = api.endpoints.clone();
    let operators = reconciler.endpoints.clone();
    let rush = join_all(["a", "b", "c", "d"].map(|name| crowd(name, coupon.id, &people, &stop)));
    let roll_out = async {
        tokio::join!(reconciler.roll_out(), consumer.roll_out(), api.roll_out());
        stop.store(true, Ordering::Relaxed);
    };
    let (answers, looks, ()) = tokio::join!(rush, watch(&kim, &operators, &stop), roll_out);
    let answers = answers.concat();
    assert!(looks > 50, "{looks}");
    let won = answers.len();
    let refused: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| !answer.is_accepted())
        .collect();
    assert!(refused.is_empty() && won > 200, "{won} claims, {refused:?}");
    all_issued(&world, coupon.drop, won).await;
    assert_exact(&world, &coupon, u32::try_from(won).unwrap(), &answers).await;

    let [first, second] = [0, 1].map(|n| kim.moved_to(&turn(&operators, n)));
    assert_eq!(
        first.post("/logout", &first.base, &csrf).await,
        303,
        "with a form of a stopped process"
    );
    assert_eq!(
        second.get("/").await.status(),
        303,
        "the session ended at the other process too"
    );
}
