//! The program judges a history recorded by several threads.

use std::path::Path;
use std::process::{Command, Output};

use firstcome_testkit::histories::{
    RecordedAnswer, RecordedOutcome, RecordedRow, RecordedScope, Recorder,
};

fn firstcome_check(file: &Path) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_firstcome-check"))
        .arg(file)
        .output()
        .unwrap();
    (
        status.code(),
        String::from_utf8([stdout, stderr].concat()).unwrap(),
    )
}

/// Records with four threads and a quantity of eight. Some requests never get an answer.
fn record(file: &Path, rows: impl FnOnce(Vec<RecordedRow>) -> Vec<RecordedRow>) {
    let recorder = Recorder::create(file).unwrap();
    recorder.drop_is(7, 3, 8, RecordedScope::Coupon);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for slot in [thread * 2 + 1, thread * 2 + 2] {
                    let pending = recorder.invoke(3, Some(7), &format!("u-{slot}"));
                    pending.end(RecordedOutcome::Ok(RecordedAnswer::Accepted {
                        drop: 7,
                        slot,
                    }));
                }
                drop(recorder.invoke(3, None, "u-silent"));
            });
        }
    });
    recorder.counted(7, 4);
    recorder.finally(
        7,
        rows(
            (1..=8)
                .map(|slot| RecordedRow {
                    slot,
                    person: format!("u-{slot}"),
                })
                .collect(),
        ),
    );
    recorder.finish().unwrap();
}

#[test]
fn the_program_reports_passed_violated_or_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("history.jsonl");

    record(&file, |rows| rows);
    let (code, printed) = firstcome_check(&file);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains(
            "12 operations (8 answered, 4 unknown), 8 promises (8 kept, 0 listed as broken)"
        ),
        "{printed}"
    );

    record(&file, |rows| rows[1..].to_vec());
    let (code, printed) = firstcome_check(&file);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("lost: u-1 was promised slot 1 of drop 7"),
        "{printed}"
    );

    std::fs::write(&file, "").unwrap();
    assert_eq!(firstcome_check(&file).0, Some(2));
    std::fs::write(&file, "{\"at_ms\":1,\"event\":\"inv").unwrap();
    let (code, printed) = firstcome_check(&file);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("line 1: "), "{printed}");
    assert_eq!(firstcome_check(&dir.path().join("missing")).0, Some(2));
}
