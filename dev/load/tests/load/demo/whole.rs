//! The whole demo with a small crowd. It runs in `make faults`, because it needs separate servers.

use firstcome_load::local::demo::{DemoSize, run};
use firstcome_load::local::system::SystemOptions;

/// Returns the value in a row of the table.
fn value<'a>(table: &'a str, row: &str) -> &'a str {
    let cells = table.lines().map(|line| line.trim_matches(['│', ' ']));
    cells
        .filter_map(|line| line.strip_prefix(row))
        .map(str::trim)
        .next()
        .unwrap_or_else(|| panic!("{row}: {table}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn final_table_counts_passes_and_explains_the_remaining_message() {
    let size = DemoSize {
        quantity: 14,
        people: 200,
        requests_per_person: 2,
        connections: 16,
    };
    let options = SystemOptions {
        apis: 1,
        consumers: 2,
        reconcile_cron: "* * * * * *".into(),
        mail_folder: None,
        log_folder: None,
        usual_ports: false,
        pages: false,
    };
    let outcome = run(&size, &options).await.unwrap();
    let table = outcome.table();
    let mails = outcome.mails_as_text();
    let [repaired, garbage] =
        ["what the reconciler repaired", "the demo's own garbage"].map(|about| mails.find(about));
    assert!(repaired.is_some() && repaired < garbage, "{mails}");
    assert!(outcome.success(), "{:?}\n{table}", outcome.complaints);
    assert_eq!(
        [value(&table, "rows"), value(&table, "users with a promise")],
        ["14", "14"],
        "{table}"
    );
    assert!(
        value(&table, "passes of the reconciler")
            .parse::<u64>()
            .unwrap()
            > 1,
        "{table}"
    );
    assert!(
        value(&table, "last pass")
            .starts_with("exact; 1 message is left for an operator: the demo's own")
    );
    assert!(
        value(&table, "undecodable: 1 left for an operator").starts_with('1'),
        "{table}"
    );
}
