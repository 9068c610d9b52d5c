//! The program itself: what it prints and its routes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use firstcome_stack::Fault;

use crate::world::{LIMIT, World, until};

struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    fn start(world: &World, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_firstcome-api"))
            .arg("consume")
            .args(world.arguments(more))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let child = std::sync::Mutex::new(&mut self.child);
        let ended = || child.lock().unwrap().try_wait().unwrap();
        until("the process ends", async || ended().is_some()).await;
        ended().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_it_listens_and_what_it_consumes_and_how_it_fares() {
    let (world, drop, proxy, through) = World::behind_proxy(100).await;
    let mut process = Process::start(&world, &[&through, "--database-timeout-ms=500"]);
    let address = process.line().strip_prefix("listening on http://").unwrap().to_owned();
    assert_eq!(process.line(), format!("consuming {} as {}", world.kafka.topic, world.kafka.group));
    until("ready", async || get(&address, "/readyz").0 == 200).await;
    assert_eq!(get(&address, "/healthz").0, 200);
    assert_eq!(get(&address, "/nowhere").0, 404);

    world.claim(drop, 1..=50).await;
    world.send(vec![(0, None, Some("poison".to_owned()))]).await;
    world.until_rows(50).await;
    let shows = |line: &str| get(&address, "/metrics").1.lines().any(|shown| shown == line);
    until("rows counted", async || shows("firstcome_consumer_issued_total 50")).await;
    until("poison counted", async || shows("firstcome_consumer_refused_total{reason=\"undecodable\"} 1")).await;
    assert!(shows("firstcome_consumer_again_total 0") && shows("firstcome_consumer_retries_total 0"));

    proxy.set(Fault::Cut).await.unwrap();
    world.claim(drop, 51..=100).await;
    until("not ready", async || get(&address, "/readyz").0 == 503).await;
    until("lag", async || shows("firstcome_consumer_lag 50")).await;
    let (status, body) = get(&address, "/readyz");
    assert!(status == 503 && body.contains("\"kafka\":\"ok\"") && body.contains("MySQL"), "{status} {body}");
    assert_eq!(get(&address, "/healthz").0, 200);
    proxy.set(Fault::Pass).await.unwrap();
    world.until_rows(100).await;
    until("ready again", async || get(&address, "/readyz").0 == 200).await;
    until("no lag", async || shows("firstcome_consumer_lag 0")).await;
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
}
