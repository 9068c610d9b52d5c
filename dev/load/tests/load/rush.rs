//! The load tool against a small server that implements the contract: its report, and the options
//! that it refuses.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use firstcome_load::rush::{RushOptions, run};
use serde_json::Value;

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
async fn writes_its_report_as_json() {
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
async fn users_authenticate_with_tokens() {
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
async fn refused_token_fails_the_run_with_the_answer_as_the_reason() {
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

#[tokio::test(flavor = "multi_thread")]
async fn reports_unusable_options_before_any_request() {
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
