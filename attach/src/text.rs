//! Statements as the team wrote them. Only the names `:id`, `:user` and `:failed` are replaced, by
//! the parameters of the server's dialect; nothing is wrapped, parsed or added.
//!
//! A name in quotes or in a comment is replaced, too, but the server then counts fewer parameters
//! than were replaced, and the statement is refused. So no SQL has to be understood here.

use std::fmt;

use serde::Deserialize;

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

    /// Returns the statement with its values in quotes, for people. It is never run.
    pub fn shown(&self, values: Values<'_>) -> String {
        self.with(|parameter| format!("'{}'", values.get(parameter).replace('\'', "''")))
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

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
