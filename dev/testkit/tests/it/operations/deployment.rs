//! deploy/kubernetes as published: the real programs work together with exactly the arguments and
//! the environment of their pods, and stop within the time that the kubelet gives them.

use firstcome_testkit::{
    ApiClient, Http, LIMIT, Manifests, OPS_TOKEN, Pod, Process, SIGNING_KEY, World, WorldStores,
    all_issued, assert_exact, eventually, people, rush,
};

/// Adapts a pod to this machine: replaces store addresses, the listening address and secrets, and
/// adds names that isolate this test from others.
fn here(mut pod: Pod, world: &World) -> Pod {
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
    for (name, value) in replaced {
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

/// Starts a pod, and returns it with its address once it is ready.
async fn started(world: &World, manifests: &Manifests, name: &str) -> (Pod, Process, String) {
    let pod = here(manifests.pod(name), world);
    let args: Vec<&str> = pod.args.iter().map(String::as_str).collect();
    let process = world.start_alone(&pod.program, &args, &pod.env);
    let base = process.line("listening on ").await;
    let http = Http::new(&base);
    eventually("the pod is ready", LIMIT, async || {
        http.get("/readyz").await.status == 200
    })
    .await;
    (pod, process, base)
}

#[tokio::test]
async fn pods_work_with_the_environment_of_the_manifests_and_stop_in_time() {
    let manifests = Manifests::read();
    let world = World::bare(WorldStores::shared().await, "deployed").await;
    let migrate = here(manifests.pod("firstcome-migrate"), &world);
    let migrate = world.start_alone(&migrate.program, &["migrate"], &migrate.env);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    // No user was admitted yet, so the pass need not wait for the publishing deadline.
    world.open().await;
    let (api, consumer, daemon) = tokio::join!(
        started(&world, &manifests, "firstcome-api"),
        started(&world, &manifests, "firstcome-consumer"),
        started(&world, &manifests, "firstcome-reconciler"),
    );
    let client: ApiClient = world.client(&api.2);
    let coupon = client.open_coupon(50).await;
    let answers = rush(&[&client], coupon.id, &people(50), 10).await;
    all_issued(&world, coupon.drop, 50).await;
    assert_exact(&world, &coupon, 50, &answers).await;
    for (pod, process, _) in [api, consumer, daemon] {
        let grace = pod
            .grace
            .checked_sub(pod.pre_stop)
            .expect("time to stop in");
        process.signal(rustix::process::Signal::TERM);
        assert_eq!(process.ended(grace).await, 0, "{}", process.log());
    }
}
