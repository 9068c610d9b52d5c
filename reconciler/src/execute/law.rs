//! Checks the sources for an architectural rule: only `execute` writes. The reconciler builds no
//! SQL and no Redis commands (it does not depend on the crates for that), so every write is a
//! function of `shared`. The test finds these functions by their content.

use std::fs;
use std::path::{Path, PathBuf};

/// Strings that only functions that write contain. A script counts as a write.
const MARKS: &str = "diesel::update diesel::insert_into diesel::delete \"UPDATE \"INSERT insert(conn set_state(conn \"DELETE resolve(conn discard_open(conn unseal(conn \
                     insert_drops(conn rename(conn set_list(conn cmd(\"SADD\") .run(&mut cmd(\"SET\") cmd(\"DEL\") cmd(\"EXPIRE\") cmd(\"HSETNX\") take(conn self.change_gate( self.settings(";

/// Functions that write the tables of runs. Only `record` may call them.
const OF_RUNS: &[&str] = &[
    "begin_run",
    "finish_run",
    "prolong_run",
    "delete_old",
    "set_state",
    "hold_back",
    "forget_held_back",
];

/// Functions that write no users' data: sessions of the operations page.
const OF_NO_USER: &[&str] = &["end_session"];

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let mut found: Vec<_> = files
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    found.extend(folders.iter().flat_map(|folder| sources(folder)));
    found
}

/// Returns the names of the functions of `shared` whose text contains one of the marks.
fn functions_that_write(shared: &Path) -> Vec<String> {
    let mut names = ["make_ahead", "recover"].map(str::to_owned).to_vec();
    for (_, text) in ["mysql", "redis"]
        .iter()
        .flat_map(|folder| sources(&shared.join(folder)))
    {
        for function in text.split("\n    pub async fn ").skip(1) {
            let body = function.split("\n    }\n").next().unwrap();
            if MARKS.split(' ').any(|mark| body.contains(mark)) {
                names.push(function[..function.find(['(', '<']).unwrap()].to_owned());
            }
        }
    }
    names
}

#[test]
fn only_execute_calls_functions_that_write() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let writes = functions_that_write(&root.join("../shared/src"));
    for known in [
        "seal_drop",
        "reissue",
        "resolve_dead_letters",
        "unseal_drops_of_dead_letters",
        "promote",
        "set_slots",
        "write_meta",
        "load_drop",
        "begin_era",
        "close_coupon",
        "open_coupons",
        "note_compared",
        "take_eras",
        "finish_run",
        "discard_dead_letter",
        "discard_dead_letters",
        "erase",
        "erase_records",
    ] {
        assert!(
            writes.iter().any(|name| name == known),
            "{known} is not recognized as writing: {writes:?}"
        );
    }
    let mut broken = Vec::new();
    for (path, text) in sources(&root.join("src")) {
        let is_in = |room: &str| path.components().any(|part| part.as_os_str() == room);
        let may_call = |name: &String| {
            OF_NO_USER.contains(&name.as_str())
                || is_in("record") && OF_RUNS.contains(&name.as_str())
        };
        for name in writes.iter().filter(|name| !may_call(name)) {
            // Methods of `self` belong to the planner or the executor. A store is never `self`.
            let calls = |of: &str| text.matches(&format!("{of}.{name}(")).count();
            if !is_in("execute")
                && !is_in("tests")
                && !path.ends_with("tests.rs")
                && calls("") > calls("self")
            {
                broken.push(format!("{} calls {name}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "only execute/ may write: {broken:#?}");
}
