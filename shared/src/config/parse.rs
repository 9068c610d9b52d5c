//! Parses the command line, with a short `-h`.

use clap::{Command, Parser};

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

/// Hides all settings except [`SHORT_HELP`] from `-h`, also in subcommands.
fn with_short_help(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let is_rare = arg
                .get_env()
                .is_some_and(|env| !SHORT_HELP.iter().any(|name| env == *name));
            arg.hide_short_help(is_rare)
        })
        .mut_subcommands(with_short_help)
}

/// Parses the command line. Prints and ends the process if it is invalid, or asks for help or the
/// version. Without optimization, an argument without a help text is a panic.
pub fn parse<Cli: Parser>(command: Command) -> Cli {
    let mut command = with_short_help(command).help_expected(true);
    let read = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches));
    read.unwrap_or_else(|error| error.format(&mut command).exit())
}
