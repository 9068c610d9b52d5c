//! Parses secrets on the command line. clap prints values that it refuses, so it would log the
//! password of a mistyped URL.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};
use secrecy::SecretString;

/// Checks a secret. The error describes the fault without showing the secret.
pub(super) type SecretCheck = fn(&str) -> Result<(), String>;

/// Parses and checks a secret; errors name the setting, and never show the value.
#[derive(Clone)]
pub struct SecretParser(SecretCheck);

/// Creates a parser for [`SecretString`] arguments.
pub fn secret(check: SecretCheck) -> SecretParser {
    SecretParser(check)
}

impl TypedValueParser for SecretParser {
    type Value = SecretString;

    fn parse_ref(
        &self,
        cmd: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<SecretString, clap::Error> {
        let text = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
        text.and_then(|text| (self.0)(text).map(|()| text.to_owned().into()))
            .map_err(|why| {
                let name = arg.map_or_else(String::new, |arg| format!("{arg}: "));
                cmd.clone()
                    .error(ErrorKind::ValueValidation, format!("{name}{why}"))
            })
    }
}
