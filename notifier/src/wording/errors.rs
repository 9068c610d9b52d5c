//! Errors of stores' clients, in words for the person on duty. The log has the original errors.

/// The meaning of a client's error, by a part of its text.
const MEANINGS: [(&[&str], &str); 5] = [
    (&["Connection refused"], "refuses connections"),
    (
        &[
            "timed out",
            "did not answer",
            "no connection within",
            "deadline has elapsed",
        ],
        "does not answer",
    ),
    (
        &[
            "failed to lookup",
            "Name or service not known",
            "Temporary failure in name",
        ],
        "is at a host name that is not known",
    ),
    (
        &[
            "Connection reset",
            "Broken pipe",
            "terminated",
            "unexpected end of file",
            "closed",
        ],
        "has closed the connection",
    ),
    (
        &["No route to host", "Network is unreachable"],
        "is not reachable by the network",
    ),
];

/// Prefixes of errors about an unavailable store.
const AWAY: [(&str, &str); 4] = [
    ("MySQL cannot be reached: ", "MySQL"),
    ("MySQL did not answer", "MySQL"),
    ("Redis cannot be reached: ", "Redis"),
    ("the topic cannot be read, ", "Kafka"),
];

/// An error of a pass in plain words. Errors that do not concern an unavailable store stay as they
/// are.
pub fn plainly(error: &str) -> String {
    let store = AWAY
        .iter()
        .find(|(beginning, _)| error.starts_with(beginning));
    let meaning = MEANINGS
        .iter()
        .find(|(words, _)| words.iter().any(|word| error.contains(word)));
    match (store, meaning) {
        (Some((_, store)), Some((_, meaning))) => format!("{store} {meaning}"),
        _ => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_named_with_what_it_does() {
        for (error, plain) in [
            (
                "MySQL cannot be reached: Input/output error: Connection refused (os error 111)",
                "MySQL refuses connections",
            ),
            (
                "MySQL did not answer list alerts within 5s",
                "MySQL does not answer",
            ),
            (
                "Redis cannot be reached: Connection reset by peer (os error 104)",
                "Redis has closed the connection",
            ),
            (
                "the topic cannot be read, so what is on its way is not known: Meta data fetch error: timed out",
                "Kafka does not answer",
            ),
            ("the pass lost its lock", "the pass lost its lock"),
            (
                "MySQL: write rows: Table is full",
                "MySQL: write rows: Table is full",
            ),
        ] {
            assert_eq!(plainly(error), plain);
        }
    }
}
