//! Faults: schedules of single faults, crash points, and faults that are checked for more than an
//! exact result.

mod calm;
mod clusters;
mod cycles;
mod gate;
mod judge;
mod mysql_failover;
mod single;
pub(crate) mod waves;

/// docs/RELIABILITY.md names tests by their paths. Each must be a function or a module of the tests.
#[test]
fn reliability_names_only_tests_that_exist() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let text = std::fs::read_to_string(root.join("docs/RELIABILITY.md")).unwrap();
    let is_path = |word: &&str| {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
        word.contains("::") && word.chars().all(is_letter)
    };
    let (_, table) = text.split_once("## Single faults").expect("the table");
    let named: Vec<&str> = table.split('`').filter(is_path).collect();
    assert!(named.len() > 40, "{named:?}");
    let mut grep = std::process::Command::new("grep");
    grep.args(["-rhoE", r"(fn|mod) \w+|^ {4}\w+:"])
        .current_dir(root);
    grep.args(["dev/harness/tests", "api/tests", "shared/src"]);
    let known = String::from_utf8(grep.output().unwrap().stdout).unwrap();
    for path in named {
        let name = path.trim_end_matches(':').rsplit("::").next().unwrap();
        let is_it = |line: &str| line.trim().trim_end_matches(':').rsplit(' ').next() == Some(name);
        assert!(known.lines().any(is_it), "no test {path}");
    }
}
