//! Reading the command line. Of a setting that is missing, the error also names the variable.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error, Parser};

/// What the command line asks for; where it can't be read, says why and ends the process.
#[expect(clippy::disallowed_methods, reason = "as clap's own exit: nothing has begun yet that had to end")]
pub fn parse<Cli: Parser>(mut command: Command) -> Cli {
    let read = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(matches) => Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        if let Some(variables) = missing(&error, &command) {
            // Where standard error is gone, there is nobody to tell.
            let _ = error.print();
            eprintln!(
                "\nor set {variables} in the environment; those of a running `make run`: set -a; . target/run/env"
            );
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// Variables of the settings that are missing. The error has a setting's placeholder, which is the
/// variable's name.
fn missing(error: &Error, command: &Command) -> Option<String> {
    let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let placeholder = |arg: &String| Some(arg.split_once('<')?.1.split_once('>')?.0.to_owned());
    let variables: Vec<_> = missing.iter().filter_map(placeholder).filter(|name| is_read(command, name)).collect();
    (!variables.is_empty()).then(|| variables.join(", "))
}

/// Whether an argument of the command, or of one below it, is read from this variable.
fn is_read(command: &Command, variable: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == variable))
        || command.get_subcommands().any(|command| is_read(command, variable))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long, env = "OF_THIS_TEST_URL")]
        of_this_test_url: String,
        #[arg(long)]
        opens_at: i64,
    }

    #[test]
    fn missing_settings_are_named_as_variables_too_and_other_arguments_are_not() {
        let missing_of = |args: &[&str]| {
            let error = Line::try_parse_from([&["x"], args].concat()).unwrap_err();
            missing(&error, &Line::command())
        };
        assert_eq!(missing_of(&[]).as_deref(), Some("OF_THIS_TEST_URL"));
        assert_eq!(missing_of(&["--of-this-test-url=x"]), None);
        assert_eq!(missing_of(&["--of-this-test-url=x", "--opens-at=one"]), None);
    }
}
