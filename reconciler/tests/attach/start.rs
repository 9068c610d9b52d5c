//! The start of the daemon: our MySQL is away.

use std::process::{Child, Stdio};
use std::time::Duration;

use firstcome_stack::{FaultProxy, Mail, MailOptions, MailSink, ProxyFault};

use crate::crash::{FILE, program};
use crate::world::World;

const SOON: Duration = Duration::from_secs(40);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn daemon_that_starts_while_our_mysql_is_away_says_so_and_goes_on_when_it_is_back() {
    let world = World::new().await;
    let (before, after) = world.ours.split_once("127.0.0.1:").unwrap();
    let (port, name) = after.split_once('/').unwrap();
    let proxy = FaultProxy::start(port.parse().unwrap()).await.unwrap();
    proxy.set(ProxyFault::Cut).await.unwrap();
    let far = format!("{before}127.0.0.1:{}/{name}", proxy.port());
    let mail = MailSink::start(MailOptions::default()).await.unwrap();
    let settings = [
        ("DATABASE_URL", far),
        ("SMTP_URL", mail.url()),
        ("ALERT_FROM", "f@example.com".to_owned()),
        ("ALERT_TO", "duty@example.com".to_owned()),
        ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "1".to_owned()),
    ];
    let mut daemon = program(&world, FILE, &["--listen-addr", "127.0.0.1:0"]);
    daemon.envs(settings).stdout(Stdio::null());
    let _daemon = Running(daemon.stderr(Stdio::null()).spawn().unwrap());
    let says = |words: &'static str| move |mail: &Mail| mail.text().contains(words);
    mail.wait_for(says("action needed: MySQL"), SOON)
        .await
        .unwrap();
    proxy.set(ProxyFault::Pass).await.unwrap();
    mail.wait_for(says("resolved: outage of MySQL"), SOON)
        .await
        .unwrap();
}
