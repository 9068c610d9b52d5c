//! Strict parsing of JSON bodies.

use serde::de::DeserializeOwned;

/// Parses a body that is one JSON object, and refuses anything after it.
///
/// # Errors
/// Returns a message that names the field or the body, with the reason.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // Some editors and PowerShell write a byte order mark before the text.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    // serde would parse an array into a struct, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("the body must be a JSON object".into());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match path.trim_matches('.') {
            "" | "?" => format!("the body: {}", error.inner()),
            path => format!("{path}: {}", error.inner()),
        }
    })?;
    json.end().map_err(|error| format!("the body: {error}"))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // only parsing is tested
    struct Sample {
        quantity: i64,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        name: String,
    }

    #[test]
    fn body_may_begin_with_a_byte_order_mark_and_errors_name_the_field() {
        for body in [" {\"quantity\": 3} ", "\u{feff}{\"quantity\": 3}"] {
            assert_eq!(read::<Sample>(body.as_bytes()).unwrap().quantity, 3);
        }
        for (body, says) in [
            ("", "the body must be a JSON object"),
            ("[3]", "the body must be a JSON object"),
            ("{", "the body: EOF"),
            (r#"{"quantity": 3} x"#, "the body: trailing characters"),
            ("{}", "the body: missing field `quantity`"),
            (r#"{"quantity": "3"}"#, "quantity: invalid type: string"),
            (r#"{"quantity": 1, "max": 1}"#, "max: unknown field `max`"),
            (
                r#"{"quantity": 1, "inner": {"name": 1}}"#,
                "inner.name: invalid type: integer",
            ),
        ] {
            let refused = read::<Sample>(body.as_bytes()).unwrap_err();
            assert!(refused.starts_with(says), "{body}: {refused}");
        }
    }
}
