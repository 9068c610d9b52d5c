//! Parses the command line. If a setting is missing, the error also names the variable.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error, Parser};

/// The twelve settings that `-h` shows: those that a new installation sets first. `--help` shows
/// all settings.
const SHORT_HELP: [&str; 12] = [
    "ALERT_FROM",
    "ALERT_TO",
    "API_URL",
    "DATABASE_URL",
    "KAFKA_BROKERS",
    "KAFKA_SIGNING_KEY",
    "LISTEN_ADDR",
    "OPS_TOKEN",
    "PUBLIC_URL",
    "REDIS_URL",
    "SMTP_URL",
    "USER_AUTH",
];

/// Hides the other settings from `-h`, also in subcommands.
fn with_short_help(command: Command) -> Command {
    let is_rare = |arg: &Arg| {
        arg.get_env()
            .is_some_and(|env| !SHORT_HELP.iter().any(|name| env == *name))
    };
    let shorten = |arg: Arg| {
        let hidden = is_rare(&arg);
        arg.hide_short_help(hidden)
    };
    command.mut_args(shorten).mut_subcommands(with_short_help)
}

/// Parses the command line. If that fails, prints the reason and ends the process.
#[expect(
    clippy::disallowed_methods,
    reason = "as clap's own exit: nothing has begun yet that had to end"
)]
pub fn parse<Cli: Parser>(command: Command) -> Cli {
    let mut command = with_short_help(command);
    let read = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(matches) => Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        if let Some(variables) = missing(&error, &command) {
            // Ignore a failure: standard error may be closed.
            let _ = error.print();
            eprintln!(
                "\nor set {variables} in the environment; those of a running `make run`: set -a; . target/run/env"
            );
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// Returns the variables of missing settings. clap's error contains the placeholders of the
/// settings, which are the names of their variables.
fn missing(error: &Error, command: &Command) -> Option<String> {
    let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    else {
        return None;
    };
    let placeholder = |arg: &String| Some(arg.split_once('<')?.1.split_once('>')?.0.to_owned());
    let variables: Vec<_> = missing
        .iter()
        .filter_map(placeholder)
        .filter(|name| is_read(command, name))
        .collect();
    (!variables.is_empty()).then(|| variables.join(", "))
}

/// Whether an argument of the command, or of a subcommand, is read from this variable.
fn is_read(command: &Command, variable: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| arg.get_env().is_some_and(|env| env == variable))
        || command
            .get_subcommands()
            .any(|command| is_read(command, variable))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long, env = "OF_THIS_TEST_URL")]
        of_this_test_url: String,
        #[arg(long, env = "REDIS_URL", default_value = "x")]
        redis_url: String,
        #[arg(long)]
        opens_at: i64,
    }

    #[test]
    fn error_names_variables_of_missing_settings_only() {
        let missing_of = |args: &[&str]| {
            let error = Line::try_parse_from([&["x"], args].concat()).unwrap_err();
            missing(&error, &Line::command())
        };
        assert_eq!(missing_of(&[]).as_deref(), Some("OF_THIS_TEST_URL"));
        assert_eq!(missing_of(&["--of-this-test-url=x"]), None);
        assert_eq!(
            missing_of(&["--of-this-test-url=x", "--opens-at=one"]),
            None
        );
    }

    #[test]
    fn short_help_hides_rare_settings() {
        let nested = || with_short_help(Command::new("y").subcommand(Line::command().name("x")));
        let short = nested()
            .find_subcommand_mut("x")
            .unwrap()
            .render_help()
            .to_string();
        let long = nested()
            .find_subcommand_mut("x")
            .unwrap()
            .render_long_help()
            .to_string();
        for usual in ["--redis-url", "--opens-at"] {
            assert!(short.contains(usual) && long.contains(usual), "{short}");
        }
        // The usage line names required arguments.
        let listed = |help: &str| {
            help.split_once("Options:")
                .is_some_and(|(_, it)| it.contains("--of-this-test-url"))
        };
        assert!(!listed(&short) && listed(&long), "{short}");
    }
}
