use firstcome_stack::{MailOptions, MailSink, SinkEncryption};
use lettre::transport::smtp::client::Tls as ClientTls;
use lettre::transport::smtp::client::{Certificate, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::LIMIT;
use crate::smtp::Smtp;

type Transport = AsyncSmtpTransport<Tokio1Executor>;

async fn start(tls: SinkEncryption) -> MailSink {
    MailSink::start(MailOptions {
        tls,
        ..MailOptions::default()
    })
    .await
    .unwrap()
}

fn mail() -> Message {
    let builder = Message::builder()
        .from("a@x.y".parse().unwrap())
        .to("b@x.y".parse().unwrap());
    builder
        .subject("hi")
        .body(".\r\n쿠폰\r\n".to_owned())
        .unwrap()
}

fn trusting(sink: &MailSink) -> TlsParameters {
    let authority = Certificate::from_pem(sink.ca_pem().unwrap().as_bytes()).unwrap();
    TlsParameters::builder("127.0.0.1".into())
        .add_root_certificate(authority)
        .build()
        .unwrap()
}

async fn delivers(sink: &MailSink, tls: ClientTls) {
    let transport = Transport::from_url(&sink.url())
        .unwrap()
        .tls(tls)
        .timeout(Some(LIMIT))
        .build();
    transport.send(mail()).await.unwrap();
    let kept = sink
        .wait_for(|mail| mail.to == ["b@x.y"], LIMIT)
        .await
        .unwrap();
    assert!(kept.text().contains("Subject: hi"));
    // A client that does not trust this run's authority sends nothing.
    let distrusting = Transport::from_url(&sink.url())
        .unwrap()
        .timeout(Some(LIMIT))
        .build();
    let error = format!("{:?}", distrusting.send(mail()).await.unwrap_err());
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn lettre_delivers_over_starttls() {
    let sink = start(SinkEncryption::StartTls).await;
    delivers(&sink, ClientTls::Required(trusting(&sink))).await;
}

#[tokio::test]
async fn lettre_delivers_over_implicit_tls() {
    let sink = start(SinkEncryption::Implicit).await;
    delivers(&sink, ClientTls::Wrapper(trusting(&sink))).await;
}

#[tokio::test]
async fn lettre_delivers_in_plain_text() {
    let sink = start(SinkEncryption::None).await;
    let transport = Transport::from_url(&sink.url()).unwrap().build();
    transport.send(mail()).await.unwrap();
    assert_eq!(sink.mails().len(), 1);
    assert_eq!(sink.ca_pem(), None);
}

#[tokio::test]
async fn starttls_is_required_before_a_mail() {
    let sink = start(SinkEncryption::StartTls).await;
    let mut smtp = Smtp::hello(sink.port()).await;
    assert!(smtp.say("MAIL FROM:<a@x.y>").await.starts_with("530 "));
}
