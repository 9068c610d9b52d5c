//! Metrics, and the alerting rules and the dashboard that use them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use firstcome_reconciler::report::Status;

use crate::prelude::*;

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

/// Returns the queries of the dashboard.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/firstcome.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().map(|panel| panel["targets"].as_array());
    let expression = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    targets.flatten().flatten().map(expression).collect()
}

/// Returns the names of metrics and recording rules in a string.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.starts_with("firstcome_") || word.starts_with("firstcome:"))
        .collect()
}

/// Runs promtool with this input, and fails with promtool's output if promtool fails.
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(deployed("prometheus"));
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
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
    let named = |begin: &'static str| {
        rules
            .lines()
            .filter_map(move |l| l.trim().strip_prefix(begin))
    };
    let operations = read("../docs/OPERATIONS.md")
        .to_lowercase()
        .replace(' ', "-");
    let runbooks = named("runbook_url: https://docs.example.com/OPERATIONS.md#");
    let is_section = |runbook: &str| operations.contains(&format!("#-{runbook}\n"));
    let missing: Vec<&str> = runbooks.filter(|runbook| !is_section(runbook)).collect();
    assert_eq!(missing, [""; 0], "sections of docs/OPERATIONS.md");
    // Every alert must fire in a test. Otherwise nothing shows that it can.
    let tests = read("prometheus/rules_test.yml");
    let fires = |alert: &str| tests.contains(&format!("alertname: {alert}\n"));
    let untested: Vec<&str> = named("- alert: ").filter(|alert| !fires(alert)).collect();
    assert_eq!(untested, [""; 0], "alerts that fire in no test");
}

/// The test above shows that each alert fires on its metrics.
#[tokio::test]
async fn every_metric_of_rules_and_dashboard_exists_and_passes_are_counted() {
    let fixture = Fixture::new("watch").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Watched", 20, 20).await;
    let daemon = world.daemon().await;
    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::FailedUnrepairable, 2).await.unwrap();
    injector.make(Drift::Unissued, 3).await.unwrap();
    assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Drift);
    #[rustfmt::skip]
    let counts: [(&str, &[&str], f64); 5] = [
        ("findings_total", &["kind=\"unissued\""], 3.0),
        ("repairs_total", &["kind=\"unissued\"", "result=\"applied\""], 3.0),
        ("repairs_total", &["kind=\"failed_claim\"", "result=\"skipped\""], 2.0),
        ("passes_total", &["trigger=\"endpoint\"", "status=\"drift\""], 1.0),
        ("alerts", &["kind=\"failed_claim\""], 1.0),
    ];
    for (name, labels, value) in counts {
        let name = format!("firstcome_{name}");
        // Another run of the daemon, for example of the urgent lane, may count more.
        eventually(
            &format!("{name} {labels:?} is at least {value}"),
            LIMIT,
            async || daemon.http().metric(&name, labels).await >= Some(value),
        )
        .await;
    }

    let mut scraped = BTreeSet::new();
    for http in [fixture.api.http(), &*fixture.consumer, daemon.http()] {
        let text = http.get("/metrics").await.text;
        promtool(&["check", "metrics"], &text);
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for family in families.filter_map(|family| family.split(' ').next()) {
            let is_named = family.starts_with("firstcome_") || family == OLD_NAME;
            assert!(
                is_named && text.contains(&format!("# HELP {family} ")),
                "{family}"
            );
            scraped.insert(family.to_owned());
        }
    }
    let rules = read("prometheus/rules.yml");
    let all = format!("{rules}\n{}", dashboard().join("\n"));
    for name in names(&all) {
        let mut ends = ["_bucket", "_sum", "_count"].iter();
        let family = ends.find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let is_recorded = rules.contains(&format!("record: {name}\n"));
        assert!(
            is_recorded || scraped.contains(family),
            "no process has {name}"
        );
    }
}
