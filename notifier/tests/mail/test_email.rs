//! Tests that `test-email` explains its attempts.

use firstcome_notifier::{NotifyArgs, test_email};
use firstcome_stack::{Behaviour, MailOptions, MailSink, SinkEncryption};

use crate::desk::{A, B, args};

async fn tried(args: &NotifyArgs) -> (bool, String) {
    let mut said = String::new();
    let ok = test_email(args, |line| said.extend([line, "\n"]))
        .await
        .unwrap();
    (ok, said)
}

#[tokio::test]
async fn test_email_reports_each_step_and_each_recipient() {
    let sink = MailSink::start(MailOptions::default()).await.unwrap();
    let args = args(Some(&sink.url()), &format!("{A},{B}"));
    let (ok, said) = tried(&args).await;
    assert!(ok && sink.mails().len() == 2, "{said}");
    for line in [
        "server      127.0.0.1, port",
        "encryption  none",
        "ok     to b@example.org",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    sink.set(Behaviour::RefuseRecipient(A.to_owned()))
        .await
        .unwrap();
    let (ok, said) = tried(&args).await;
    assert!(
        !ok && said.contains("FAILED to a@example.org") && said.contains("check ALERT_TO"),
        "{said}"
    );
    assert_eq!(sink.mails().len(), 3, "the other recipient gets the mail");
}

#[tokio::test]
async fn usual_mail_errors_are_explained() {
    let sink = MailSink::start(MailOptions::default()).await.unwrap();
    let mut args = args(Some(&sink.url()), A);
    args.smtp_timeout_ms = 500;
    sink.set(Behaviour::SilentAfterAccept).await.unwrap();
    let (ok, said) = tried(&args).await;
    assert!(
        !ok && said.contains("no answer within 500ms") && said.contains("465 smtps"),
        "{said}"
    );
    args.smtp_timeout_ms = 60_000;
    sink.set(Behaviour::Down).await.unwrap();
    let (ok, said) = tried(&args).await;
    assert!(!ok && said.contains("check host, port"), "{said}");
    sink.set(Behaviour::Normal).await.unwrap();

    args.smtp_url = Some(format!("smtps://ops:hunter2@127.0.0.1:{}", sink.port()).into());
    let (ok, said) = tried(&args).await;
    assert!(
        !ok && said.contains("?tls=required") && said.contains("as ops"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
    args.smtp_url = Some(format!("smtp://ops:hunter2@127.0.0.1:{}", sink.port()).into());
    let (ok, said) = tried(&args).await;
    assert!(!ok && said.contains("can be read on the way"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let starttls = MailSink::start(MailOptions {
        folder: None,
        tls: SinkEncryption::StartTls,
    })
    .await
    .unwrap();
    args.smtp_url = Some(starttls.url().into());
    let (ok, said) = tried(&args).await;
    assert!(!ok && said.contains("SSL_CERT_FILE"), "{said}");
}
