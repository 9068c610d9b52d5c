//! Settings that prevent a process from starting, and the help text that lists all settings.

use std::collections::BTreeSet;

use super::settings_page::page;
use crate::prelude::*;

#[tokio::test]
async fn wrong_or_missing_settings_are_refused_with_their_name_and_without_secrets() {
    let world = World::new("settings").await;
    let cases = [
        ("KAFKA_PROPERTIES", "hunter2", "consume"),
        ("KAFKA_SASL_PASSWORD", "hunter2", "serve"), // of a plain-text listener
        ("KAFKA_SASL_PASSWORD", "hunter2", "once"),
        ("KAFKA_PROPERTIES", "security.protocol=TLS", "once"),
        ("KAFKA_PROPERTIES", "enable.auto.commit=true", "consume"),
        ("KAFKA_PROPERTIES", "no.such.thing=hunter2", "once"),
        ("KAFKA_PROPERTIES", "ssl.ca.location=hunter2", "serve"), // of a plain-text listener
        ("OPS_TOKEN", "hunter2-is-short", "daemon"),
        ("USER_AUTH", "nobody", "serve"),
        (
            "JWT_JWKS_URL",
            "https://user:hunter2@127.0.0.1/keys",
            "serve",
        ), // with USER_AUTH=trusted-header
        ("DATABASE_URL", "postgres://hunter2@127.0.0.1/x", "consume"),
        ("REDIS_URL", "hunter2@127.0.0.1", "daemon"),
        ("KAFKA_BROKERS", "localhost", "once"),
        ("KAFKA_SIGNING_KEY", "", "consume"),
        ("KAFKA_SIGNING_KEY", "hunter2", "daemon"),
        ("LISTEN_ADDR", "localhost", "serve"),
        ("RECONCILE_CRON", "every minute", "daemon"),
        ("SMTP_URL", "http://127.0.0.1", "daemon"),
        ("WEBHOOK_URLS", "https://127.0.0.1/hunter2", "daemon"), // without WEBHOOK_SECRET
    ];
    for (variable, value, command) in cases {
        let program = if ["serve", "consume"].contains(&command) {
            "firstcome-api"
        } else {
            "firstcome-reconciler"
        };
        let process = world.start(program, &[command], &[(variable, value)]);
        let code = process.ended(LIMIT).await;
        assert_ne!(code, 0, "{command} with {variable}={value}");
        let log = process.log();
        let flag = variable.to_lowercase().replace('_', "-");
        let named = log.contains(variable) || log.contains(&format!("--{flag}"));
        assert!(named, "{command} with {variable}={value}: {log}");
        let is_safe = !log.contains("hunter2") && !log.contains("panicked");
        assert!(is_safe, "{command} with {variable}={value}: {log}");
    }
}

/// Maximum number of settings of all programs together (docs/decisions/0035-settings.md).
const SETTINGS: usize = 45;

/// Programs, their commands, and words that the help must contain: flags, and defaults of settings.
#[rustfmt::skip]
const HELP: [(&str, &str, &str); 11] = [
    ("firstcome-api", "serve", "KAFKA_PROPERTIES coupon-claims 127.0.0.1:8080 2000 RUST_LOG"),
    ("firstcome-api", "consume", "firstcome-issuer 127.0.0.1:8082"),
    ("firstcome-api", "migrate", "--partitions 12 --replication"),
    ("firstcome-api", "coupon", ""),
    ("firstcome-api", "health", ""),
    ("firstcome-reconciler", "daemon", "127.0.0.1:8081 */30"),
    ("firstcome-reconciler", "once", "--dry-run --json --coupon --deep --confirm"),
    ("firstcome-reconciler", "test-email", "SMTP_URL"),
    ("firstcome-reconciler", "test-webhook", "WEBHOOK_URLS"),
    ("firstcome-reconciler", "explain", "--coupon --user"),
    ("firstcome-reconciler", "health", ""),
];

/// Returns the settings in the help, where each has the form `[env: NAME=…]` or `[env: NAME]`.
fn settings_in(help: &str) -> BTreeSet<String> {
    let names = help.split("[env: ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    names.collect()
}

/// The help names each command's settings and defaults, and no secret. `-h` shows at most twelve.
/// The total stays within [`SETTINGS`], `deploy/common.env.example` names no other settings, and
/// docs/SETTINGS.md has what the help of all commands says.
#[tokio::test]
async fn help_shows_defaults_few_settings_and_no_secrets_and_is_the_settings_page() {
    let world = World::bare(WorldStores::shared().await, "help").await;
    let hidden = ["KAFKA_SASL_PASSWORD", "JWT_SECRET", "JWT_JWKS_URL"];
    for name in hidden {
        world.set(name, "hunter2");
    }
    let secrets =
        ["OPS_TOKEN", "DATABASE_URL", "KAFKA_SASL_PASSWORD"].map(|name| world.setting(name));
    let mut helps = Vec::new();
    let mut all = BTreeSet::new();
    for (program, command, words) in HELP {
        let help = async |flag| {
            let process = world.start(program, &[command, flag], &[]);
            assert_eq!(process.ended(LIMIT).await, 0);
            process.all_stdout().await
        };
        let long = help("--help").await;
        for word in words.split_whitespace() {
            assert!(
                long.contains(word),
                "{program} {command} lacks {word}: {long}"
            );
        }
        for secret in &secrets {
            assert!(!long.contains(secret), "{program} {command}: {long}");
        }
        all.extend(settings_in(&long));
        helps.push((command.to_owned(), long));
        let short = settings_in(&help("-h").await);
        assert!(short.len() <= 12, "{program} {command} -h: {short:?}");
    }
    let example = include_str!("../../../../../deploy/common.env.example").lines();
    let mut named = example.filter_map(|line| line.trim_start_matches('#').split_once('='));
    assert!(named.all(|(name, _)| all.contains(name)), "{all:?}");
    let is_few = all.len() > 40 && all.len() <= SETTINGS;
    assert!(is_few, "{}: {all:?}", all.len());
    let page = page(&helps);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SETTINGS.md");
    if std::env::var_os("WRITE_SETTINGS").is_some() {
        std::fs::write(file, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(file).unwrap_or_default() == page,
        "docs/SETTINGS.md is not what --help says: WRITE_SETTINGS=1 writes it"
    );
}
