//! Plants secrets in tokens, passwords and other settings that contain one, logs everything
//! (`RUST_LOG=trace`), and runs both successful and failing operations. No planted secret may
//! appear in a log, a response, a mail or a table of records.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use firstcome_harness::SIGNING_KEY;
use firstcome_load::identity::{token, token_settings};
use firstcome_stack::{PASSWORD, USER, kafka_login};

use crate::drift::support::{ReadMail, read};
use crate::prelude::*;
use crate::tls::{servers, world};

const VIEW_TOKEN: &str = "planted-view-token-0123456789abcdef";
const JWT_SECRET: &str = "planted-jwt-secret-0123456789abcdef";
const WEBHOOK_SECRET: &str = "whsec_cGxhbnRlZC13ZWJob29rLXNlY3JldC0x";
const SMTP_PASSWORD: &str = "planted-smtp-password";
const WRONG: &str = "planted-wrong-password";

/// Returns the encodings in which a secret may appear: plain, or as HTTP and SMTP send it.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![
        secret.to_owned(),
        BASE64_STANDARD.encode(secret),
        BASE64_STANDARD_NO_PAD.encode(secret),
    ];
    forms.extend(["", "x", "xx"].map(|before| {
        // If the secret is part of a longer encoded text, only its complete groups of four
        // characters are the same.
        let encoded = BASE64_STANDARD_NO_PAD.encode(format!("{before}{secret}"));
        let whole = encoded.len() / 4 * 4;
        encoded[4..whole].to_owned()
    }));
    forms
}

fn assert_has_none(what: &str, secrets: &[&str], text: &str) {
    for secret in secrets {
        for form in forms(secret) {
            if let Some(at) = text.find(&form) {
                let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let line: String = text[begin..].chars().take(500).collect();
                panic!("{what} has {form:?}, a form of {secret:?}: {line}");
            }
        }
    }
}

#[tokio::test]
async fn no_planted_secret_appears_in_a_log_a_response_a_mail_or_a_table() {
    let world = world("tls-secrets").await;
    let verbose = format!("{}; debug=all", kafka_login("SCRAM-SHA-512", USER));
    for (name, value) in [
        (
            "RUST_LOG",
            "trace,librdkafka=trace,rdkafka::client=trace,tokio_cron_scheduler=trace",
        ),
        ("KAFKA_PROPERTIES", &verbose),
        ("OPS_VIEW_TOKEN", VIEW_TOKEN),
        ("WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("WEBHOOK_URLS", "http://127.0.0.1:1/hook"),
    ] {
        world.set(name, value);
    }
    let fixture = Fixture::of(world).await;
    let world = &fixture.world;
    let person = token(JWT_SECRET, "u-1").unwrap();
    let wrong_person = token("another-secret-0123456789abcdef0123456789", "u-1").unwrap();
    let with_tokens = world.serve_with(&token_settings(JWT_SECRET)).await;
    let smtp = world
        .setting("SMTP_URL")
        .replace("smtp://", &format!("smtp://postman:{SMTP_PASSWORD}@"));
    let (coupon, _) = fixture.held("Secrets", 20, 12).await;
    let redeem_token = world.setting("REDEEM_TOKEN");
    let settings = [
        OPS_TOKEN,
        VIEW_TOKEN,
        &redeem_token,
        SIGNING_KEY,
        JWT_SECRET,
        WEBHOOK_SECRET,
        SMTP_PASSWORD,
    ];
    let secrets = [
        &settings[..],
        &[PASSWORD, WRONG, person.as_str(), wrong_person.as_str()],
    ]
    .concat();

    // Sends successful requests, and requests with mistakes that users make.
    let mut answers = Vec::new();
    for bearer in [
        &person,
        &wrong_person,
        OPS_TOKEN,
        VIEW_TOKEN,
        &redeem_token,
        WRONG,
    ] {
        for (method, path) in [
            (Method::POST, format!("/v1/coupons/{}/claims", coupon.id)),
            (Method::GET, format!("/v1/coupons/{}/issued", coupon.id)),
            (Method::POST, "/v1/coupons".to_owned()),
        ] {
            let request = with_tokens
                .http()
                .request(method, &path)
                .bearer_auth(bearer);
            answers.push(
                Http::send(request.body(format!("{{\"name\":\"{}\"", "x".repeat(10))))
                    .await
                    .text,
            );
        }
    }
    let daemon = world.daemon().await;
    let mut drift = injector(world, &coupon).await;
    drift.make(Drift::Unissued, 2).await.unwrap();
    drift.make(Drift::FailedUnrepairable, 1).await.unwrap();
    daemon.reconcile(&json!({})).await;
    let login = Http::send(
        daemon
            .http()
            .request(Method::POST, "/login")
            .body(format!("name=Kim&token={OPS_TOKEN}&token2={WRONG}")),
    )
    .await;
    answers.push(login.text);
    let paths = [
        "/metrics",
        "/readyz",
        "/healthz",
        "/openapi.json",
        "/nothing",
    ];
    let (tokens, api) = (with_tokens.http(), fixture.api.http());
    for http in [tokens, api, daemon.http(), &*fixture.consumer] {
        for path in paths {
            answers.push(http.get(path).await.text);
        }
    }
    mailed(world, &["action needed", "Secrets"]).await;
    // The mail server offers no log-in, so it does not get the password.
    let args = ["test-email"];
    let refused = world.start("firstcome-reconciler", &args, &[("SMTP_URL", &smtp)]);
    refused.ended(LIMIT).await;

    by_wrong_settings(world).await;
    nothing_has_one(world, &answers.join("\n"), &secrets).await;
}

/// Runs the programs that read a setting with a wrong password for each store, and with other
/// values that they refuse.
async fn by_wrong_settings(world: &World) {
    let servers = servers().await;
    let database = world.setting("DATABASE_URL").replace(PASSWORD, WRONG);
    let smtp = format!("smtp://postman:{WRONG}@127.0.0.1:no-port");
    let serve = ("firstcome-api", "serve");
    let consume = ("firstcome-api", "consume");
    let migrate = ("firstcome-api", "migrate");
    let once = ("firstcome-reconciler", "once");
    let daemon = ("firstcome-reconciler", "daemon");
    let all = [serve, consume, migrate, once];
    let wrong: [(&str, &str, &[_]); 10] = [
        ("REDIS_URL", &servers.redis_url(WRONG), &[serve, once]),
        ("DATABASE_URL", &database, &all),
        ("KAFKA_SASL_PASSWORD", WRONG, &all),
        ("KAFKA_SIGNING_KEY", WRONG, &all),
        ("OPS_TOKEN", WRONG, &[serve, daemon]),
        ("OPS_VIEW_TOKEN", OPS_TOKEN, &[serve, daemon]),
        ("REDEEM_TOKEN", WRONG, &[serve]),
        ("JWT_SECRET", WRONG, &[serve]),
        ("WEBHOOK_SECRET", WRONG, &[once]),
        ("SMTP_URL", &smtp, &[once]),
    ];
    for (name, value, programs) in wrong {
        let env = [
            (name, value),
            ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
            ("STORE_TIMEOUT_MS", "1000"),
        ];
        let mut processes = Vec::new();
        for (program, command) in programs {
            processes.push(world.start(program, &[command], &env));
        }
        for process in &processes {
            // The API may start without Kafka.
            eventually("the process exits or starts", LIMIT, async || {
                process.status().is_some()
                    || ["listening on ", "consuming "]
                        .iter()
                        .any(|word| process.stdout().contains(word))
            })
            .await;
        }
    }
}

async fn nothing_has_one(world: &World, answers: &str, secrets: &[&str]) {
    let logs = std::path::PathBuf::from(servers().await.certificates.path("secret-logs"));
    world.keep_logs(&logs).unwrap();
    let mut said = 0;
    for file in std::fs::read_dir(&logs).unwrap() {
        let path = file.unwrap().path();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        assert_has_none(&path.display().to_string(), secrets, &text);
        said += text.len();
    }
    assert!(said > 1_000_000, "only {said} bytes were logged");
    assert_has_none("an answer", secrets, answers);
    for mail in world.mail.mails() {
        // Encoding breaks a mail's lines, perhaps within a secret.
        let ReadMail {
            subject,
            text,
            html,
        } = read(&mail);
        for part in [mail.text(), subject, text, html] {
            assert_has_none("a mail", secrets, &part);
        }
    }
    for table in [
        "reconcile_runs",
        "reconcile_findings",
        "levels",
        "told",
        "outbox",
        "ops_actions",
        "processes",
    ] {
        let rows = world.sql.query(&format!("SELECT * FROM {table}")).await;
        assert_has_none(table, secrets, &format!("{rows:?}"));
    }
}
