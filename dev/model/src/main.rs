//! `firstcome-model [words of names]`: explores the protocols and prints the results.

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut good = true;
    for case in firstcome_model::cases()
        .into_iter()
        .filter(|case| words.iter().all(|word| case.name.contains(word.as_str())))
    {
        let name = case.name.clone();
        let is_whole = case.is_whole;
        let (states, broken) = case.explore();
        let verdict = match (is_whole, &broken) {
            (true, None) => "every promise holds",
            (true, Some(_)) => "BROKEN",
            (false, None) => "NOT CAUGHT",
            (false, Some(_)) => "caught",
        };
        println!("{name}: {states} states, {verdict}");
        good &= is_whole == broken.is_none();
        let Some((property, steps)) = broken else {
            continue;
        };
        println!("    not: {property}");
        for step in steps {
            println!("    {step}");
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
