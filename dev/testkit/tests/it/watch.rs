//! Metrics, and the alerting rules and the dashboard that a real Prometheus evaluates with them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use firstcome_reconciler::report::Status;
use firstcome_stack::{PrometheusOptions, PrometheusServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, Http, LIMIT, eventually};
use serde_json::{Value, json};

use crate::drift::support::{injector, mailed};

/// The only metric with a different prefix. It is part of the original contract.
const OLD_NAME: &str = "reconciler_last_success_age_seconds";

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deploy")
        .join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deployed(path)).unwrap()
}

fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("grafana/firstcome.json")).unwrap();
    let panels = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|panel| panel["type"] != "row");
    let exprs = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let exprs = panel["targets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|target| target["expr"].as_str().unwrap());
        exprs.map(move |expr| (title.to_owned(), expr.to_owned()))
    });
    exprs.collect()
}

/// Returns the names of metrics and recording rules in a string.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.starts_with("firstcome_") || word.starts_with("firstcome:"))
        .collect()
}

/// Runs promtool with this input. promtool prints its own error messages.
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(deployed("prometheus"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "promtool {args:?}: {said}");
}

#[tokio::test]
async fn alerting_rules_pass_their_tests_and_have_runbooks() {
    firstcome_stack::setup().await.unwrap();
    promtool(&["check", "config", "prometheus.yml"], "");
    promtool(&["test", "rules", "rules_test.yml"], "");
    let rules = read("prometheus/rules.yml");
    let operations = std::fs::read_to_string(deployed("../docs/OPERATIONS.md")).unwrap();
    let headings: BTreeSet<String> = operations
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches(['#', ' '])
                .to_lowercase()
                .replace(' ', "-")
        })
        .collect();
    let runbooks: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "))
        .collect();
    assert!(runbooks.len() >= 10, "{runbooks:?}");
    for runbook in runbooks {
        assert!(
            headings.contains(runbook),
            "docs/OPERATIONS.md has no section {runbook}"
        );
    }
    // Every alert must fire in a test. Otherwise nothing shows that it can.
    let tests = read("prometheus/rules_test.yml");
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} fires in no test"
        );
    }
}

#[tokio::test]
async fn drift_appears_and_ends_in_metrics_dashboard_and_alerts() {
    let fixture = Fixture::new("watch").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Watched", 20, 20).await;
    let daemon = world.daemon().await;
    assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Clean);

    // No rule waits longer than a second here.
    let rules = read("prometheus/rules.yml");
    let hasty: Vec<_> = rules
        .lines()
        .map(|line| {
            if line.trim().starts_with("for: ") {
                "        for: 1s"
            } else {
                line
            }
        })
        .collect();
    let folder = std::env::temp_dir().join(format!("firstcome-watch-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("rules.yml");
    std::fs::write(&file, hasty.join("\n")).unwrap();
    let sources = [
        ("firstcome-api", fixture.api.http()),
        ("firstcome-consumer", &*fixture.consumer),
        ("firstcome-reconciler", daemon.http()),
    ];
    let jobs =
        sources.map(|(name, http)| (name.to_owned(), vec![http.base().replace("http://", "")]));
    let config = read("prometheus/prometheus.yml");
    for (name, _) in &jobs {
        assert!(config.contains(&format!("job_name: {name}\n")), "{name}");
    }
    let prometheus = PrometheusServer::start(PrometheusOptions {
        jobs: jobs.to_vec(),
        rules: vec![file],
    })
    .await
    .unwrap();
    let prometheus = Http::new(&prometheus.url());
    let ask = async |query: &str| {
        let path = format!("/api/v1/query?query={}", encoded(query));
        let answer = prometheus.get(&path).await;
        assert_eq!(answer.body["status"], "success", "{query}: {}", answer.text);
        answer.body["data"]["result"].clone()
    };
    let number = async |query: &str| {
        ask(query).await[0]["value"][1]
            .as_str()
            .map(|value| value.parse::<f64>().unwrap())
    };
    eventually("everything is scraped", LIMIT, async || {
        number("sum(up)").await == Some(3.0)
    })
    .await;

    let mut scraped = BTreeSet::new();
    for (name, http) in &sources {
        let text = http.get("/metrics").await.text;
        promtool(&["check", "metrics"], &text);
        for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let family = family.split(' ').next().unwrap().to_owned();
            assert!(
                family.starts_with("firstcome_") || family == OLD_NAME,
                "{name}: {family}"
            );
            assert!(
                text.contains(&format!("# HELP {family} ")),
                "{name}: {family} has no HELP"
            );
            assert!(
                !family.contains("_age_") || family == OLD_NAME,
                "{name}: {family} is an age, not a timestamp"
            );
            scraped.insert(family);
        }
        assert!(text.contains("firstcome_build_info{version="), "{name}");
    }
    let panels = dashboard();
    let all = rules.clone()
        + &panels
            .iter()
            .map(|(_, expr)| expr.as_str())
            .collect::<Vec<_>>()
            .join("\n");
    for name in names(&all) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        let is_known = if name.contains(':') {
            rules.contains(&format!("record: {name}\n"))
        } else {
            scraped.contains(family)
        };
        assert!(is_known, "no process has {name}");
    }
    for (title, expr) in &panels {
        ask(&expr.replace("$__rate_interval", "1m")).await;
        assert!(!title.is_empty());
    }
    eventually("rows are in time", LIMIT, async || {
        number("sum(firstcome_issue_delay_seconds_count)").await == Some(20.0)
    })
    .await;

    let left = &panels
        .iter()
        .find(|(title, _)| title == "Drift that is left")
        .unwrap()
        .1;
    let firing = "ALERTS{alertname=\"FirstcomeDrift\",alertstate=\"firing\",kind=\"failed_claim\"}";
    let problems = "firstcome_alerts{kind=\"failed_claim\"}";
    assert_eq!(
        (number(left).await, number(firing).await),
        (Some(0.0), None)
    );
    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::FailedUnrepairable, 2).await.unwrap();
    injector.make(Drift::Unissued, 3).await.unwrap();
    assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Drift);
    for (name, labels, value) in [
        ("findings", &["kind=\"unissued\""][..], 3.0),
        ("repairs", &["kind=\"unissued\"", "result=\"applied\""], 3.0),
        (
            "repairs",
            &["kind=\"failed_claim\"", "result=\"skipped\""],
            2.0,
        ),
        ("passes", &["trigger=\"endpoint\"", "status=\"drift\""], 1.0),
    ] {
        let name = format!("firstcome_{name}_total");
        let counted = daemon.http().metric(&name, labels).await;
        assert_eq!(counted, Some(value), "{name} {labels:?}");
    }
    eventually("the dashboard shows the drift", LIMIT, async || {
        number(left).await == Some(2.0)
    })
    .await;
    eventually("the alert fires", LIMIT, async || {
        number(firing).await == Some(1.0)
    })
    .await;
    eventually("the gauge of open problems rises", LIMIT, async || {
        number(problems).await == Some(1.0)
    })
    .await;
    mailed(world, &["action needed", "Watched"]).await;
    eventually("the mail is counted", LIMIT, async || {
        let sent = ["result=\"sent\""];
        daemon.http().metric("firstcome_mails_total", &sent).await >= Some(1.0)
    })
    .await;

    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3) WHERE resolved_at IS NULL")
        .await;
    daemon.reconcile(&json!({})).await;
    eventually("the dashboard shows its end", LIMIT, async || {
        number(left).await == Some(0.0)
    })
    .await;
    eventually("the gauge of open problems falls", LIMIT, async || {
        number(problems).await == Some(0.0)
    })
    .await;
    eventually("the alert is over", LIMIT, async || {
        number(firing).await.is_none()
    })
    .await;
    mailed(world, &["resolved", "Watched"]).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Percent-encodes a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
