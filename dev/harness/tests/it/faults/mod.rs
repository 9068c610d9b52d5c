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

/// docs/RELIABILITY.md names tests by their paths. The last part of each path must be a function
/// or module in the file or folder that the part before it names.
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
    for path in named {
        let (module, name) = path.rsplit_once("::").unwrap();
        let is_named = format!(r"(fn|mod) {name}\b|^ {{4}}{name}:");
        let mut grep = std::process::Command::new("grep");
        grep.args(["-rlE", &is_named, "dev/harness/tests/it", "api/tests"]);
        let files = grep.current_dir(root).output().unwrap().stdout;
        let files = String::from_utf8(files).unwrap();
        let is_in = |file: &str| file.split(['/', '.']).any(|part| part == module);
        assert!(files.lines().any(is_in), "no test {path}");
    }
}
