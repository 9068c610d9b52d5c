//! `firstcome-check FILE` judges a recorded history.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use firstcome_testkit::histories::{History, Judgement, Unreadable, check};

/// Decides from a recorded history whether every promise was kept.
///
/// Exit code 0: passed. 1: violated; the output names every violation. 2: unknown (nothing was
/// promised, or the final rows are missing), or the history cannot be read.
#[derive(Parser)]
#[command(name = "firstcome-check", version, max_term_width = 120)]
struct Cli {
    /// Histories as JSON lines
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let codes = Cli::parse()
        .files
        .iter()
        .map(|file| judge(file))
        .collect::<Vec<_>>();
    // A violation takes precedence over an unknown result.
    let worst = [1, 2]
        .into_iter()
        .find(|code| codes.contains(code))
        .unwrap_or(0);
    ExitCode::from(worst)
}

fn judge(file: &Path) -> u8 {
    match read(file) {
        Ok(judgement) => {
            println!("{}: {judgement}", file.display());
            judgement.exit_code()
        }
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            2
        }
    }
}

fn read(file: &Path) -> Result<Judgement, Unreadable> {
    Ok(check(&History::parse(&std::fs::read_to_string(file)?)?))
}
