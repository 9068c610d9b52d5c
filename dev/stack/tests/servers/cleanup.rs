use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use firstcome_stack::{RedisOptions, RedisServer};
use tempfile::TempDir;

use crate::eventually;

/// Starts a process that owns a whole stack, with temporary files in `tmp`.
fn owner(tmp: &TempDir, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-stack"));
    command
        .arg("run")
        .args(arguments)
        .arg("--env-file")
        .arg(tmp.path().join("env"))
        .env("TMPDIR", tmp.path());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Counts the servers below `dir` by their working directories.
fn running_below(dir: &Path) -> usize {
    let below = |entry: fs::DirEntry| {
        fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| below(entry).then_some(()))
        .count()
}

fn folders(tmp: &TempDir) -> usize {
    let is_ours = |entry: &fs::DirEntry| {
        entry
            .file_name()
            .to_string_lossy()
            .starts_with("firstcome-stack-")
    };
    fs::read_dir(tmp.path())
        .unwrap()
        .flatten()
        .filter(is_ours)
        .count()
}

async fn eventually_nothing_is_left(tmp: &TempDir) {
    eventually("servers and folder are gone", async || {
        running_below(tmp.path()) == 0 && folders(tmp) == 0
    })
    .await;
}

#[tokio::test]
async fn killed_owner_leaves_nothing_behind() {
    let tmp = tempfile::tempdir().unwrap();
    let mut owner = owner(&tmp, &["--cluster"]);
    eventually("the stack is up", async || tmp.path().join("env").exists()).await;
    // Six Redis servers, three brokers and two MySQL servers, each with a separate folder.
    assert_eq!((running_below(tmp.path()), folders(&tmp)), (11, 11));
    let env = fs::read_to_string(tmp.path().join("env")).unwrap();
    let redis: Vec<_> = env
        .lines()
        .filter(|line| line.starts_with("REDIS_"))
        .collect();
    assert_eq!((redis.len(), redis[0]), (2, "REDIS_MODE=cluster"));
    assert_eq!(redis[1].matches("redis://127.0.0.1:").count(), 6);
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually_nothing_is_left(&tmp).await;
}

#[tokio::test]
async fn sentinels_option_starts_redis_behind_sentinels() {
    let tmp = tempfile::tempdir().unwrap();
    let mut owner = owner(&tmp, &["--cluster", "--sentinels"]);
    eventually("the stack is up", async || tmp.path().join("env").exists()).await;
    let env = fs::read_to_string(tmp.path().join("env")).unwrap();
    let redis: Vec<_> = env
        .lines()
        .filter(|line| line.starts_with("REDIS_"))
        .collect();
    assert_eq!((redis.len(), redis[0]), (3, "REDIS_MODE=sentinel"));
    assert_eq!(redis[1].matches("redis://127.0.0.1:").count(), 3);
    // The eleven servers, and a master, its two replicas and three sentinels.
    assert_eq!(running_below(tmp.path()), 17);
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually_nothing_is_left(&tmp).await;
}

#[tokio::test]
async fn killed_owner_leaves_nothing_behind_while_starting() {
    for servers in [0, 1, 2] {
        let tmp = tempfile::tempdir().unwrap();
        let mut owner = owner(&tmp, &[]);
        eventually("it has begun", async || {
            folders(&tmp) == 1 && running_below(tmp.path()) >= servers
        })
        .await;
        owner.kill().unwrap();
        owner.wait().unwrap();
        eventually_nothing_is_left(&tmp).await;
    }
}

#[tokio::test]
async fn interrupted_owner_leaves_nothing_behind_and_exits_successfully() {
    let tmp = tempfile::tempdir().unwrap();
    let mut owner = owner(&tmp, &[]);
    eventually("the stack is up", async || tmp.path().join("env").exists()).await;
    let env = fs::read_to_string(tmp.path().join("env")).unwrap();
    for (line, start) in env.lines().zip([
        "REDIS_URL=redis://",
        "DATABASE_URL=mysql://",
        "KAFKA_BROKERS=127",
        "SMTP_URL=smtp://",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
    assert!(env.contains("/firstcome\n"));
    let interrupt = Command::new("kill")
        .args(["-s", "INT", &owner.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    assert!(owner.wait().unwrap().success());
    // The check does not retry, because the process waits for its janitor before it exits.
    assert_eq!(
        (
            running_below(tmp.path()),
            fs::read_dir(tmp.path()).unwrap().count()
        ),
        (0, 0)
    );
}

#[tokio::test]
async fn dropping_a_server_ends_its_process_and_deletes_its_data() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let data = server.data_dir().to_owned();
    let pid = server.pid().unwrap();
    assert!(data.exists());
    drop(server);
    assert!(!data.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
