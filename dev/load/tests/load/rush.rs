//! The load tool against a small server that implements the contract: its output, and the input
//! that it refuses.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser as _;
use firstcome_load::rush::{RushOptions, run};
use serde_json::Value;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::system;

async fn rush(url: &str, more: &[&str]) -> Result<ExitCode> {
    let always = [
        "rush",
        "--url",
        url,
        "--people",
        "300",
        "--requests-per-person",
        "1",
        "--connections",
        "8",
    ];
    run(&RushOptions::try_parse_from([&always[..], more].concat()).unwrap()).await
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_writes_its_report_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("new/rush.json");
    let files = ["--json", json.to_str().unwrap()];
    let args = [&["--ops-token", "the-token", "--rate", "2000"][..], &files].concat();
    assert_eq!(
        rush(&system(10, 0).await, &args).await.unwrap(),
        ExitCode::SUCCESS
    );
    let report: Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(
        (
            report["tally"]["requests"].as_u64(),
            report["tally"]["admitted"].as_u64()
        ),
        (Some(300), Some(10))
    );
    assert_eq!(
        (report["made"].as_bool(), report["rate"].as_f64()),
        (Some(true), Some(2_000.0))
    );
    assert!(report["ceiling_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (
            report["tally"]["winners"]["count"].as_u64(),
            report["tally"]["others"]["count"].as_u64()
        ),
        (Some(10), Some(290))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn people_may_authenticate_with_tokens() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let each: Vec<String> = (0..300).map(|n| format!("token-{n}")).collect();
    std::fs::write(tokens.path(), each.join("\n")).unwrap();
    let args = [
        "--coupon",
        "7",
        "--user-auth",
        "jwt",
        "--tokens",
        tokens.path().to_str().unwrap(),
    ];
    assert_eq!(
        rush(&system(10, 0).await, &args).await.unwrap(),
        ExitCode::SUCCESS
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_fails_with_the_answer_as_the_reason() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let json = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "refused\n".repeat(300)).unwrap();
    let files = [
        "--tokens",
        tokens.path().to_str().unwrap(),
        "--json",
        json.path().to_str().unwrap(),
    ];
    let args = [&["--coupon", "7", "--user-auth", "jwt"][..], &files].concat();
    assert_eq!(
        rush(&system(10, 0).await, &args).await.unwrap(),
        ExitCode::FAILURE
    );
    assert!(
        read(json.path()).contains("401 {") && read(json.path()).contains("unauthorized"),
        "{}",
        read(json.path())
    );
}

/// Starts the system behind TLS; also returns the certificate to trust.
async fn behind_tls() -> (String, tempfile::NamedTempFile) {
    let plain: std::net::SocketAddr = system(10, 0)
        .await
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else {
                    return;
                };
                let mut inside = tokio::net::TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), made.cert.pem()).unwrap();
    (url, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn https_trusts_only_the_given_certificate() {
    let (url, certificate) = behind_tls().await;
    let trusted = [
        "--coupon",
        "7",
        "--ca-file",
        certificate.path().to_str().unwrap(),
    ];
    assert_eq!(rush(&url, &trusted).await.unwrap(), ExitCode::SUCCESS);
    let error = format!("{:#}", rush(&url, &["--coupon", "7"]).await.unwrap_err());
    assert!(
        error.contains("TLS") && error.contains("UnknownIssuer"),
        "{error}"
    );
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error = rush(
        &url,
        &["--coupon", "7", "--ca-file", empty.path().to_str().unwrap()],
    )
    .await
    .unwrap_err();
    assert!(
        error.to_string().contains("holds no certificate"),
        "{error:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_options_are_reported_before_anybody_asks() {
    let url = system(10, 0).await;
    for (args, words) in [
        (&["--coupon", "9"][..], "there is no coupon 9"),
        (&["--coupon", "8"], "coupon 8 is closed"),
        (&["--ops-token", ""], "give --coupon"),
        (
            &["--ops-token", "another"],
            "is --ops-token that of the API?",
        ),
        (
            &["--coupon", "7", "--json", "/dev/null/x.json"],
            "/dev/null",
        ),
        (
            &["--coupon", "7", "--database-url", "postgres://x"],
            "DATABASE_URL is no mysql://",
        ),
        (
            &[
                "--coupon",
                "7",
                "--database-url",
                "mysql://u:secret@127.0.0.1:1/x",
            ],
            "MySQL can't be reached",
        ),
    ] {
        let error = format!("{:#}", rush(&url, args).await.unwrap_err());
        assert!(
            error.contains(words) && !error.contains("secret"),
            "{args:?}: {error}"
        );
    }
}
