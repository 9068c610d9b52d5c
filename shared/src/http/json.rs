//! Strict parsing of JSON bodies. Errors are written for API users, because serde's errors contain
//! names of Rust types.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Returns a text without the byte order mark that some editors and PowerShell write before it.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Parses one JSON object and nothing after it.
///
/// # Errors
/// Returns a message that names the field and the values it accepts.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let bytes = without_mark(bytes);
    // serde would parse an array into a struct, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("the body must be a JSON object".into());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        sentence(path.trim_matches('.'), error.inner())
    })?;
    json.end().map_err(|error| sentence("", &error))?;
    Ok(value)
}

/// Rewrites axum's error about an invalid query string.
pub(super) fn of_query(text: &str) -> String {
    let text = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(text);
    let (path, text) = text.split_once(": ").unwrap_or(("", text));
    of_field(path, text)
}

fn sentence(path: &str, error: &serde_json::Error) -> String {
    let line = error.line();
    let column = error.column();
    let text = error.to_string();
    let text = text
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&text);
    match error.classify() {
        Category::Eof => {
            format!("the body is not valid JSON: it ends too early (line {line}, column {column})")
        }
        Category::Syntax | Category::Io => {
            format!("the body is not valid JSON: {text} (line {line}, column {column})")
        }
        Category::Data => of_field(path, text),
    }
}

fn of_field(path: &str, text: &str) -> String {
    let quoted = |text: &str| {
        text.replace('`', "")
            .replace("expected one of ", "there are ")
            .replace("expected ", "there is ")
    };
    let place = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    let typed = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: "));
    if let Some((found, expected)) = typed.and_then(|text| text.split_once(", expected ")) {
        let path = if path.is_empty() { "the body" } else { path };
        format!(
            "{path} must be {}, not {}",
            as_expected(expected),
            as_found(found)
        )
    } else if let Some(rest) = text.strip_prefix("unknown field ") {
        format!("there is no field {}", quoted(rest))
    } else if let Some(rest) = text.strip_prefix("unknown variant ") {
        format!("{path}: there is no {}", quoted(rest))
    } else if let Some(name) = text.strip_prefix("missing field ") {
        format!("{} is missing", place(&name.replace('`', "")))
    } else if let Some(name) = text.strip_prefix("duplicate field ") {
        format!("{} is given twice", name.replace('`', ""))
    } else if let Some(kind) = of_text(text) {
        format!("{path} must be {kind}")
    } else if chrono(text) {
        format!(
            "{path} must be an instant with its zone, such as 2026-12-01T06:00:00Z or 2026-12-01T15:00:00+09:00"
        )
    } else if path.is_empty() {
        text.to_owned()
    } else {
        format!("{path}: {text}")
    }
}

/// Returns the expected kind of value, if a query parameter is not a number or a boolean.
fn of_text(text: &str) -> Option<&'static str> {
    match text {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            Some("a whole number")
        }
        "number too large to fit in target type" => Some("a smaller number"),
        "number too small to fit in target type" => Some("a larger number"),
        "provided string was not `true` or `false`" => Some("true or false"),
        _ => None,
    }
}

/// Whether this is chrono's error for an invalid timestamp.
fn chrono(text: &str) -> bool {
    [
        "premature end of input",
        "input contains invalid characters",
        "trailing input",
        "input is out of range",
    ]
    .contains(&text)
}

fn as_expected(rust: &str) -> &str {
    match rust {
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if rust.starts_with("struct ") || rust.starts_with("internally tagged enum ") => {
            "an object"
        }
        _ => rust,
    }
}

fn as_found(serde: &str) -> String {
    match (serde.strip_prefix("string "), serde.split_once('`')) {
        (Some(text), _) => format!("the text {text}"),
        (None, Some((_, value))) => value.replace('`', ""),
        (None, None) if serde == "sequence" => "a list".to_owned(),
        (None, None) if serde == "map" => "an object".to_owned(),
        (None, None) => serde.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsing is tested
    struct Sample {
        quantity: i64,
        #[serde(default)]
        deep: bool,
        until: Option<DateTime<Utc>>,
        inner: Option<Inner>,
        kind: Option<SampleKind>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        name: String,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum SampleKind {
        Once,
        Daily,
    }

    #[test]
    fn body_error_names_the_field_and_accepted_values() {
        for body in [" {\"quantity\": 3} ", "\u{feff}{\"quantity\": 3}"] {
            assert_eq!(read::<Sample>(body.as_bytes()).unwrap().quantity, 3);
        }
        for (body, says) in [
            ("", "the body must be a JSON object"),
            ("[3]", "the body must be a JSON object"),
            (
                "{",
                "the body is not valid JSON: it ends too early (line 1, column 1)",
            ),
            (
                r#"{"quantity" 3}"#,
                "the body is not valid JSON: expected `:` (line 1, column 13)",
            ),
            (
                r#"{"quantity": 3} x"#,
                "the body is not valid JSON: trailing characters (line 1, column 17)",
            ),
            ("{}", "quantity is missing"),
            (
                r#"{"quantity": "3"}"#,
                "quantity must be a whole number, not the text \"3\"",
            ),
            (
                r#"{"quantity": 1.5}"#,
                "quantity must be a whole number, not 1.5",
            ),
            (
                r#"{"quantity": null}"#,
                "quantity must be a whole number, not null",
            ),
            (
                r#"{"quantity": 1, "deep": [1]}"#,
                "deep must be true or false, not a list",
            ),
            (
                r#"{"quantity": 1, "max": 1}"#,
                "there is no field max, there are quantity, deep, until, inner, kind",
            ),
            (
                r#"{"quantity": 1, "quantity": 2}"#,
                "quantity is given twice",
            ),
            (r#"{"quantity": 1, "inner": {}}"#, "inner.name is missing"),
            (
                r#"{"quantity": 1, "inner": {"name": 1}}"#,
                "inner.name must be a string, not 1",
            ),
            (
                r#"{"quantity": 1, "kind": "weekly"}"#,
                "kind: there is no weekly, there is once or daily",
            ),
            (
                r#"{"quantity": 1, "until": "tomorrow"}"#,
                "until must be an instant with its zone, such as 2026-12-01T06:00:00Z or 2026-12-01T15:00:00+09:00",
            ),
        ] {
            assert_eq!(read::<Sample>(body.as_bytes()).unwrap_err(), says, "{body}");
        }
    }
}
