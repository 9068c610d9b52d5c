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
    const ALL: [Self; 3] = [Self::Id, Self::User, Self::Failed];

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

/// How a server writes parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `?`
    Mysql,
    /// `$1`. Each occurrence gets a number of its own, so that one in quotes is missed.
    Postgres,
}

/// A statement of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Statement {
    text: String,
}

/// A statement as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub text: String,
    pub parameters: Vec<Parameter>,
}

impl Statement {
    pub fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    pub fn has(&self, parameter: Parameter) -> bool {
        self.parts().any(|part| part == Part::Name(parameter))
    }

    pub fn prepared(&self, dialect: Dialect) -> Prepared {
        let mut parameters = Vec::new();
        let text = self.with(|parameter| {
            parameters.push(parameter);
            match dialect {
                Dialect::Mysql => "?".to_owned(),
                Dialect::Postgres => format!("${}", parameters.len()),
            }
        });
        Prepared { text, parameters }
    }

    /// Returns the statement with its values in quotes, for people. It is never run.
    pub fn shown(&self, values: Values<'_>) -> String {
        self.with(|parameter| format!("'{}'", values.get(parameter).replace('\'', "''")))
    }

    fn with(&self, mut replace: impl FnMut(Parameter) -> String) -> String {
        let mut text = String::with_capacity(self.text.len());
        for part in self.parts() {
            match part {
                Part::Text(written) => text.push_str(written),
                Part::Name(parameter) => text.push_str(&replace(parameter)),
            }
        }
        text
    }

    /// Splits the text at the names. `a::id` and `:idea` are none.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut rest = self.text.as_str();
        let mut before = None;
        std::iter::from_fn(move || {
            if let Some(parameter) = name_at(rest, before) {
                rest = &rest[parameter.name().len()..];
                before = Some('d');
                return Some(Part::Name(parameter));
            }
            let end = rest
                .char_indices()
                .skip(1)
                .find(|(at, _)| name_at(&rest[*at..], rest[..*at].chars().next_back()).is_some())
                .map_or(rest.len(), |(at, _)| at);
            let (text, after) = rest.split_at(end);
            rest = after;
            before = text.chars().next_back();
            (!text.is_empty()).then_some(Part::Text(text))
        })
    }

    /// Refuses everything but a query.
    ///
    /// # Errors
    /// What is wrong with the field of this name.
    pub fn must_read(&self, field: &str) -> Result<(), String> {
        let word = self.word(0);
        if matches!(word.as_str(), "SELECT" | "WITH") {
            return Ok(());
        }
        Err(format!(
            "{field} begins with {word}: only SELECT or WITH is read"
        ))
    }

    /// Refuses everything but `INSERT INTO` and `UPDATE`, and for `resolve` also `DELETE`: no other
    /// statement changes exactly what it names, or can be taken back.
    ///
    /// # Errors
    /// What is wrong with the field of this name.
    pub fn must_write(&self, field: &str, may_delete: bool) -> Result<(), String> {
        let [first, second, third] = [0, 1, 2].map(|at| self.word(at));
        let is_allowed = match first.as_str() {
            "INSERT" => second == "INTO",
            "UPDATE" => second != "IGNORE" && third != "IGNORE",
            "DELETE" => may_delete && second == "FROM",
            _ => false,
        };
        if is_allowed {
            return Ok(());
        }
        let may = if may_delete {
            "UPDATE, DELETE FROM or INSERT INTO"
        } else {
            "INSERT INTO or UPDATE"
        };
        Err(format!(
            "{field} begins with {first} {second}: only {may}, so that nothing of yours is \
            overwritten"
        ))
    }

    fn word(&self, number: usize) -> String {
        let mut words = self.text.split_whitespace();
        words.nth(number).unwrap_or_default().to_uppercase()
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, PartialEq)]
enum Part<'a> {
    Text(&'a str),
    Name(Parameter),
}

fn name_at(text: &str, before: Option<char>) -> Option<Parameter> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    if !text.starts_with(':') || before.is_some_and(|letter| letter == ':' || is_word(letter)) {
        return None;
    }
    Parameter::ALL.into_iter().find(|parameter| {
        let after = text.strip_prefix(parameter.name());
        after.is_some_and(|after| !after.starts_with(is_word))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_replaced_once_each_and_nothing_else_is_touched() {
        for (written, mysql, postgres) in [
            (
                "a = :id AND b = :user",
                "a = ? AND b = ?",
                "a = $1 AND b = $2",
            ),
            ("x::id, :idea, :id", "x::id, :idea, ?", "x::id, :idea, $1"),
            (":id:user", "?:user", "$1:user"),
            ("'12:30:00' ':user'", "'12:30:00' '?'", "'12:30:00' '$1'"),
            ("", "", ""),
        ] {
            let statement = Statement::new(written);
            assert_eq!(statement.prepared(Dialect::Mysql).text, mysql);
            assert_eq!(statement.prepared(Dialect::Postgres).text, postgres);
        }
    }

    #[test]
    fn only_queries_are_read_and_only_inserts_and_updates_are_written() {
        let read = |text: &str| Statement::new(text).must_read("issued");
        assert!(read("select 1").is_ok() && read("\n WITH a AS (SELECT 1) SELECT 2").is_ok());
        let refused = read("UPDATE a SET b = 1").unwrap_err();
        assert_eq!(
            refused,
            "issued begins with UPDATE: only SELECT or WITH is read"
        );
        let write = |text: &str| Statement::new(text).must_write("issue", false).is_ok();
        assert!(write("INSERT INTO a VALUES (1)") && write("update a set b = 1"));
        for refused in [
            "INSERT IGNORE INTO a VALUES (1)",
            "UPDATE IGNORE a SET b = 1",
            "UPDATE LOW_PRIORITY IGNORE a SET b = 1",
            "REPLACE INTO a VALUES (1)",
            "DELETE FROM a",
            "CALL give()",
            "COMMIT",
            "",
        ] {
            assert!(!write(refused), "{refused}");
        }
        assert!(
            Statement::new("DELETE FROM a")
                .must_write("resolve", true)
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_text(text in "[a:'\\-/ ?$é]{0,8}(:id|:user|:failed|:idx)?[a:'_]{0,4}") {
            let statement = Statement::new(&text);
            let joined = statement.with(|parameter| parameter.name().to_owned());
            prop_assert_eq!(&joined, &text);
            let Prepared { parameters, .. } = statement.prepared(Dialect::Mysql);
            let named = Parameter::ALL.into_iter().filter(|it| statement.has(*it)).count();
            prop_assert!(named <= parameters.len());
        }
    }
}
