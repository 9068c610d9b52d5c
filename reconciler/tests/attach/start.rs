//! The start of the daemon: our MySQL is away, or another file uses its database.

use firstcome_stack::{
    FaultProxy, Mail, MailOptions, MailSink, ProxyFault, eventually, eventually_some, mysql_rows,
};

use crate::program::{DAEMON, FILE, LIMIT, Running, attach, shop};

#[tokio::test]
async fn daemon_that_starts_while_our_mysql_is_away_mails_it_and_goes_on_when_it_is_back() {
    let shop = shop().await;
    let (before, after) = shop.ours.split_once("127.0.0.1:").unwrap();
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
    let _daemon = Running::start(attach(&shop, FILE, &DAEMON).envs(settings));
    let says = |words: &'static str| move |mail: &Mail| mail.text().contains(words);
    mail.wait_for(says("action needed: MySQL"), LIMIT)
        .await
        .unwrap();
    proxy.set(ProxyFault::Pass).await.unwrap();
    // The first pass finds an event of a user who was promised nothing: one mail may tell both.
    let is_over = |mail: &Mail| unwrapped(mail).contains(": outage of MySQL.");
    mail.wait_for(is_over, LIMIT).await.unwrap();
}

/// The lines of a mail as one.
fn unwrapped(mail: &Mail) -> String {
    let text = mail.text().replace("=\r\n", "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn file_is_refused_only_if_it_shares_no_campaign_with_a_running_daemon() {
    let shop = shop().await;
    let daemon = |file: &str| Running::start(&mut attach(&shop, file, &DAEMON));
    let noted = async |daemons: &str| {
        let query = "SELECT DISTINCT campaign FROM processes, JSON_TABLE(state, \
            '$.campaigns[*]' COLUMNS (campaign VARCHAR(64) PATH '$')) AS announced ORDER BY 1";
        eventually(daemons, LIMIT, async || {
            let found = mysql_rows(&shop.ours, query).await.unwrap();
            found.concat().join(" ") == daemons
        })
        .await;
    };
    let winter = daemon(FILE);
    noted("Winter").await;
    let summer = FILE.replace("Winter", "Summer");
    for args in [["--once"].as_slice(), &DAEMON] {
        let refused = Running::start(&mut attach(&shop, &summer, args));
        let status = refused.program.ended(LIMIT).await.unwrap();
        let why = refused.program.log();
        assert!(!status.success() && why.contains("another file"), "{why}");
        assert!(why.contains("Winter"), "{why}");
    }
    // A replica, and a file that was edited.
    let replica = daemon(FILE);
    let (_, campaign) = summer.split_once("[[campaign]]").unwrap();
    let edited = daemon(&format!("{FILE}[[campaign]]{campaign}"));
    noted("Summer Winter").await;
    drop((winter, replica, edited));
    // Killed long ago, or before the clock was set back. Their last statements may still come.
    for at in ["2020-01-01", "2999-01-01"] {
        eventually_some("the rows do not count", LIMIT, async || {
            let old = format!("UPDATE processes SET seen_at = '{at}'");
            mysql_rows(&shop.ours, &old).await.unwrap();
            let accepted = attach(&shop, &summer, &["--once"]).output().unwrap();
            let said = String::from_utf8_lossy(&accepted.stderr).into_owned();
            if said.contains("another file") {
                return Err(said);
            }
            Ok(())
        })
        .await;
    }
}
