//! The law that only `execute` writes, checked on the sources. The reconciler builds no commands
//! and no SQL of its own (it does not depend on the crates for that), so whatever it writes is a
//! function of `shared`; this test finds those by what they contain.

use std::fs;
use std::path::{Path, PathBuf};

/// What a function that writes contains. Scripts count as writes: those that only read would not
/// need to be scripts.
const MARKS: &[&str] = &[
    "diesel::update",
    "diesel::insert_into",
    "diesel::delete",
    "sql_query(\"UPDATE",
    "insert(conn",
    "set_state(conn",
    "insert_drops(conn",
    ".run(&mut self.conn",
    "cmd(\"SET\")",
    "cmd(\"DEL\")",
    "cmd(\"EXPIRE\")",
    "cmd(\"HSETNX\")",
    "arg(\"LOAD\")",
];

/// `record` keeps the tables of runs, and nothing else.
const OF_RUNS: &[&str] = &["begin_run", "finish_run", "delete_old_runs", "set_state"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names of the public functions of `shared` whose text has one of the marks.
fn functions_that_write() -> Vec<String> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/src");
    let mut names = vec!["drops::make_ahead".to_owned()];
    for path in ["mysql", "redis"].iter().flat_map(|folder| sources(&shared.join(folder))) {
        let text = fs::read_to_string(path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for function in text.split("\n    pub async fn ").skip(1) {
            let end = function.find("\n    }\n").unwrap_or(function.len());
            if MARKS.iter().any(|mark| function[..end].contains(mark)) {
                names.push(function[..function.find(['(', '<']).unwrap()].to_owned());
            }
        }
    }
    names
}

#[test]
fn only_execute_calls_what_writes() {
    let writes = functions_that_write();
    for known in ["seal_drop", "reissue", "promote", "set_canary", "ensure_generation", "open_gate", "finish_run"] {
        assert!(writes.iter().any(|name| name == known), "{known} is not recognized as writing: {writes:?}");
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut broken = Vec::new();
    let may_write = |path: &Path| path.starts_with(src.join("execute")) || path.to_string_lossy().contains("tests");
    for path in sources(&src).iter().filter(|path| !may_write(path)) {
        let text = fs::read_to_string(path).unwrap();
        let in_record = path.starts_with(src.join("record"));
        for name in writes.iter().filter(|name| !(in_record && OF_RUNS.contains(&name.as_str()))) {
            let call = if name.contains("::") { format!("{name}(") } else { format!(".{name}(") };
            // The planner has methods of the same names; a store is never `self`.
            if text.matches(&call).count() > text.matches(&format!("self{call}")).count() {
                broken.push(format!("{} calls {name}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "only execute/ may write: {broken:#?}");
}
