use std::time::{Duration, Instant};

use firstcome_stack::{Behaviour, MailOptions, MailSink};

use crate::smtp::{SHORT, Smtp};
use crate::{LIMIT, Wire};

async fn start() -> MailSink {
    MailSink::start(MailOptions::default()).await.unwrap()
}

#[tokio::test]
async fn a_mail_is_stored_without_dot_stuffing() {
    let sink = start().await;
    let mut smtp = Smtp::hello(sink.port()).await;
    smtp.say("MAIL FROM:<a@x.y>").await;
    smtp.say("RCPT TO:<b@x.y>").await;
    smtp.say("RCPT TO:<c@x.y>").await;
    smtp.say("DATA").await;
    assert_eq!(
        smtp.say("Subject: hi\r\n\r\n..\r\n..dots\r\nend..\r\n.")
            .await,
        "250 2.0.0 kept"
    );
    let mail = sink.wait_for(|_| true, LIMIT).await.unwrap();
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("a@x.y", ["b@x.y".to_owned(), "c@x.y".to_owned()].as_slice())
    );
    assert_eq!(mail.text(), "Subject: hi\r\n\r\n.\r\n.dots\r\nend..\r\n");
    assert_eq!(sink.mails(), [mail]);
    sink.clear();
    assert_eq!(sink.mails(), []);
}

#[tokio::test]
async fn a_lone_dot_between_bare_line_feeds_does_not_end_a_mail() {
    let sink = start().await;
    let mut smtp = Smtp::hello(sink.port()).await;
    let [_, _, end] = smtp
        .send(
            "b@x.y",
            "one\n.\nMAIL FROM:<smuggled@x.y>\r\n.\nstill\n.\r\nhere",
        )
        .await;
    assert!(end.starts_with("250 "));
    assert_eq!(sink.mails().len(), 1);
    assert!(
        sink.mails()[0].text().ends_with("still\n.\r\nhere\r\n"),
        "{:?}",
        sink.mails()[0].text()
    );
}

#[tokio::test]
async fn pipelined_commands_and_8bit_text_are_accepted() {
    let sink = start().await;
    let mut smtp = Smtp::hello(sink.port()).await;
    smtp.0
        .say("MAIL FROM:<>\r\nRCPT TO:<ü@x.y>\r\nDATA\r\n")
        .await
        .unwrap();
    for code in ["250", "250", "354"] {
        assert!(smtp.answer().await.starts_with(code));
    }
    // The blank line that ended the commands above is the first of the text.
    assert!(smtp.say("쿠폰\r\n.").await.starts_with("250 "));
    assert_eq!(
        (
            sink.mails()[0].from.as_str(),
            sink.mails()[0].text().as_str()
        ),
        ("", "\r\n쿠폰\r\n")
    );
    assert_eq!(sink.mails()[0].to, ["ü@x.y"]);
}

#[tokio::test]
async fn the_right_extensions_are_announced_and_order_is_enforced() {
    let sink = start().await;
    let mut smtp = Wire::connect(sink.port()).await.unwrap();
    smtp.say("EHLO me").await.unwrap();
    let mut lines = Vec::new();
    while !lines
        .last()
        .is_some_and(|line: &String| line.starts_with("250 "))
    {
        lines.push(smtp.hear().await.unwrap());
    }
    let lines = lines.join(",");
    for extension in ["PIPELINING", "8BITMIME", "SMTPUTF8"] {
        assert!(lines.contains(extension), "{lines}");
    }
    assert!(!lines.contains("STARTTLS"));
    let mut smtp = Smtp(smtp);
    for line in ["RCPT TO:<a@x.y>", "DATA", "STARTTLS"] {
        assert!(smtp.say(line).await.starts_with("503 "));
    }
    assert!(smtp.say("HUH").await.starts_with("500 "));
    assert!(smtp.say("MAIL FROM:a@x.y").await.starts_with("501 "));
    assert!(smtp.say("QUIT").await.starts_with("221 "));
    assert!(smtp.0.is_closed().await);
}

#[tokio::test]
async fn refusals_are_temporary_and_end() {
    let sink = start().await;
    let mut smtp = Smtp::hello(sink.port()).await;
    sink.set(Behaviour::Refuse).await.unwrap();
    assert!(smtp.say("MAIL FROM:<a@x.y>").await.starts_with("451 "));
    sink.set(Behaviour::Normal).await.unwrap();
    assert!(smtp.send("b@x.y", "hi").await[2].starts_with("250 "));
}

#[tokio::test]
async fn one_recipient_can_be_refused_while_others_get_the_mail() {
    let sink = start().await;
    sink.set(Behaviour::RefuseRecipient("Bad@x.y".into()))
        .await
        .unwrap();
    let mut smtp = Smtp::hello(sink.port()).await;
    smtp.say("MAIL FROM:<a@x.y>").await;
    assert!(smtp.say("RCPT TO:<bad@x.y>").await.starts_with("550 "));
    assert!(smtp.say("DATA").await.starts_with("503 "));
    assert!(smtp.say("RCPT TO:<good@x.y>").await.starts_with("250 "));
    smtp.say("DATA").await;
    smtp.say("hi\r\n.").await;
    assert_eq!(sink.mails()[0].to, ["good@x.y"]);
}

#[tokio::test]
async fn silent_after_accept_affects_new_and_existing_clients() {
    let sink = start().await;
    let mut old = Smtp::hello(sink.port()).await;
    sink.set(Behaviour::SilentAfterAccept).await.unwrap();
    let mut new = Wire::connect(sink.port()).await.unwrap();
    new.say("EHLO me").await.unwrap();
    assert_eq!(new.rest().await, "");
    old.0.say("NOOP").await.unwrap();
    assert_eq!(old.0.rest().await, "");
    sink.set(Behaviour::Normal).await.unwrap();
    Smtp::hello(sink.port()).await;
}

#[tokio::test]
async fn silent_after_data_stores_the_mail_without_an_answer() {
    let sink = start().await;
    sink.set(Behaviour::SilentAfterData).await.unwrap();
    let mut smtp = Smtp::hello(sink.port()).await;
    smtp.say("MAIL FROM:<a@x.y>").await;
    smtp.say("RCPT TO:<b@x.y>").await;
    smtp.say("DATA").await;
    smtp.0.say("hi\r\n.").await.unwrap();
    sink.wait_for(|mail| mail.to == ["b@x.y"], LIMIT)
        .await
        .unwrap();
    assert_eq!(smtp.0.rest().await, "");
}

#[tokio::test]
async fn slow_delays_each_line() {
    let sink = start().await;
    sink.set(Behaviour::Slow(SHORT)).await.unwrap();
    let begun = Instant::now();
    // The greeting and five lines after EHLO.
    Smtp::hello(sink.port()).await;
    assert!(begun.elapsed() >= SHORT * 6, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn down_closes_everything_and_the_same_port_reopens() {
    let sink = start().await;
    let mut old = Smtp::hello(sink.port()).await;
    sink.set(Behaviour::Down).await.unwrap();
    assert!(Wire::connect(sink.port()).await.is_err());
    assert!(old.0.is_closed().await);
    sink.set(Behaviour::Normal).await.unwrap();
    assert!(Smtp::hello(sink.port()).await.send("b@x.y", "hi").await[2].starts_with("250 "));
}

#[tokio::test]
async fn a_missing_mail_is_reported_with_the_number_of_others() {
    let sink = start().await;
    Smtp::hello(sink.port()).await.send("b@x.y", "hi").await;
    let error = sink
        .wait_for(|mail| mail.to.is_empty(), Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("among 1"), "{error}");
}

#[tokio::test]
async fn mails_are_also_written_as_files() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new");
    let options = MailOptions {
        folder: Some(dir.clone()),
        ..MailOptions::default()
    };
    let sink = MailSink::start(options).await.unwrap();
    Smtp::hello(sink.port()).await.send("b@x.y", "hi").await;
    let files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].extension().unwrap(), "eml");
    assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), "hi\r\n");
}

#[test]
fn a_sink_outlives_the_runtime_that_started_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let sink = runtime().block_on(start());
    runtime().block_on(async {
        assert!(Smtp::hello(sink.port()).await.send("b@x.y", "hi").await[2].starts_with("250 "));
        sink.set(Behaviour::Down).await.unwrap();
        sink.set(Behaviour::Normal).await.unwrap();
    });
    runtime().block_on(async { drop(Smtp::hello(sink.port()).await) });
}
