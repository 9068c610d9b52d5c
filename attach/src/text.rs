//! Statements as the team wrote them. Only the names `:id`, `:user` and `:failed` are replaced, by
//! the parameters of the server's dialect; nothing is wrapped, parsed or added.
//!
//! A name in quotes or in a comment is replaced, too, but the server then counts fewer parameters
//! than were replaced, and the statement is refused. So no SQL has to be understood here.

use serde::Deserialize;
use strum::Display;

use crate::error::{Answer, AttachError};

/// A value that a statement is run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// The campaign, from the first column of `each`.
    Id,
    User,
    /// A failed event.
    Failed,
}

impl Parameter {
    pub const ALL: [Self; 3] = [Self::Id, Self::User, Self::Failed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Id => ":id",
            Self::User => ":user",
            Self::Failed => ":failed",
        }
    }
}

/// Values of the parameters; those of a statement that lacks the name are not sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Values<'a> {
    pub id: &'a str,
    pub user: &'a str,
    pub failed: &'a str,
}

impl<'a> Values<'a> {
    pub fn get(self, parameter: Parameter) -> &'a str {
        match parameter {
            Parameter::Id => self.id,
            Parameter::User => self.user,
            Parameter::Failed => self.failed,
        }
    }
}

/// Where a statement stands in the file. Checks and statements of `issue` have numbers from 1 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display)]
#[strum(serialize_all = "lowercase")]
pub enum Field {
    Each,
    Promised,
    Issued,
    Failed,
    #[strum(to_string = "check {0}")]
    Check(usize),
    #[strum(to_string = "queue.sql")]
    Stage,
    #[strum(to_string = "issue {0}")]
    Issue(usize),
    Resolve,
    /// Not in the file.
    #[strum(to_string = "a command of ours")]
    Ours,
}

impl Field {
    pub fn writes(self) -> bool {
        matches!(self, Self::Issue(_) | Self::Resolve)
    }

    /// Returns the names that have a value.
    pub fn parameters(self) -> &'static [Parameter] {
        match self {
            Self::Each | Self::Ours => &[],
            Self::Promised | Self::Issued | Self::Failed | Self::Check(_) | Self::Stage => {
                &[Parameter::Id]
            }
            Self::Issue(_) => &[Parameter::Id, Parameter::User],
            Self::Resolve => &Parameter::ALL,
        }
    }
}

/// Returns statements with their places.
pub fn numbered(
    field: fn(usize) -> Field,
    statements: &[Statement],
) -> impl Iterator<Item = (Field, &Statement)> {
    (1..).map(field).zip(statements)
}

/// A statement with its place and the values that it is run with.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub field: Field,
    pub statement: &'a Statement,
    pub values: Values<'a>,
}

impl<'a> Query<'a> {
    pub fn new(field: Field, statement: &'a Statement, values: Values<'a>) -> Self {
        Self {
            field,
            statement,
            values,
        }
    }

    /// Returns the statement with its values in quotes, for people. It is never run.
    pub fn shown(&self) -> String {
        let quoted = |value: &str| format!("'{}'", value.replace('\'', "''"));
        self.statement.with(|it| quoted(self.values.get(it)))
    }

    /// Returns the values in the order of the parameters.
    pub fn in_order(&self) -> Vec<&'a str> {
        let parameters = self.statement.parameters().into_iter();
        parameters.map(|it| self.values.get(it)).collect()
    }

    /// Refuses a statement of which the server does not see every name as a parameter.
    pub fn must_be_seen(&self, parameters: usize) -> Answer<()> {
        let written = self.statement.parameters();
        if written.len() == parameters {
            return Ok(());
        }
        let name = written.first().map_or(":id", |it| it.name());
        let field = self.field;
        Err(AttachError::Misfit(format!(
            "{field}: a `{name}` stands in quotes or in a comment, or a `?` beside it"
        )))
    }
}

/// A statement of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Statement(String);

impl Statement {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the names in their order, each as often as it is written.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        self.with(|parameter| {
            parameters.push(parameter);
            String::new()
        });
        parameters
    }

    /// Replaces each name.
    pub fn with(&self, mut replace: impl FnMut(Parameter) -> String) -> String {
        let mut text = String::with_capacity(self.0.len());
        let mut end = 0;
        for (at, _) in self.0.match_indices(':') {
            if let Some(parameter) = self.name_at(at) {
                text.push_str(&self.0[end..at]);
                text.push_str(&replace(parameter));
                end = at + parameter.name().len();
            }
        }
        text.push_str(&self.0[end..]);
        text
    }

    /// Returns the name at a colon. `a::id` and `:idea` are none.
    fn name_at(&self, colon: usize) -> Option<Parameter> {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let (before, rest) = self.0.split_at(colon);
        if before.ends_with(|letter| letter == ':' || is_word(letter)) {
            return None;
        }
        Parameter::ALL.into_iter().find(|parameter| {
            let after = rest.strip_prefix(parameter.name());
            after.is_some_and(|after| !after.starts_with(is_word))
        })
    }

    /// Whether a word or a name occurs in it, in any case.
    pub fn has_word(&self, wanted: &str) -> bool {
        let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_' && letter != '$';
        let mut words = self.0.split(is_end);
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    }

    /// Returns a word in capitals.
    pub fn word(&self, number: usize) -> String {
        let mut words = self.0.split_whitespace();
        words.nth(number).unwrap_or_default().to_uppercase()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_replaced_once_each_and_nothing_else_is_touched() {
        for (written, expected) in [
            ("a = :id AND b = :user", "a = ? AND b = ?"),
            ("x::id, :idea, :id", "x::id, :idea, ?"),
            (":id:user", "?:user"),
            ("'12:30:00' ':user'", "'12:30:00' '?'"),
            ("", ""),
        ] {
            let text = Statement::new(written).with(|_| "?".to_owned());
            assert_eq!(text, expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_but_names_is_replaced(text in "[a:'\\-/ ?$é]{0,8}(:id|:user|:failed|:idx)?[a:'_]{0,4}") {
            let statement = Statement::new(&text);
            let same = statement.with(|parameter| parameter.name().to_owned());
            prop_assert_eq!(&same, &text);
        }
    }
}
