//! Translates errors of store clients into plain words for the operator. The log has the original
//! errors.

use super::super::FailureCause;

/// The meaning of a client's error, identified by a part of its text, because clients have no error
/// codes for these cases.
const MEANINGS: [(&str, &str); 18] = [
    ("Connection refused", "refuses connections"),
    ("timed out", "does not answer"),
    ("did not answer", "does not answer"),
    ("no connection within", "does not answer"),
    ("deadline has elapsed", "does not answer"),
    ("BrokerTransportFailure", "does not answer"),
    ("AllBrokersDown", "does not answer"),
    ("OperationTimedOut", "does not answer"),
    ("failed to lookup", "is at a host name that is not known"),
    (
        "Name or service not known",
        "is at a host name that is not known",
    ),
    (
        "Temporary failure in name",
        "is at a host name that is not known",
    ),
    ("Connection reset", "has closed the connection"),
    ("Broken pipe", "has closed the connection"),
    ("terminated", "has closed the connection"),
    ("unexpected end of file", "has closed the connection"),
    ("closed", "has closed the connection"),
    ("No route to host", "is not reachable by the network"),
    ("Network is unreachable", "is not reachable by the network"),
];

/// Describes an error of a pass in plain words. Leaves errors unchanged that do not concern an
/// unavailable store.
pub fn plainly(cause: Option<FailureCause>, error: &str) -> String {
    let plain = cause.and_then(|cause| unavailable(cause, error));
    plain.unwrap_or_else(|| error.to_owned())
}

/// Says in plain words that a store is unavailable, if the error means that.
pub fn unavailable(cause: FailureCause, error: &str) -> Option<String> {
    let store = match cause {
        FailureCause::Mysql => "MySQL",
        FailureCause::Redis => "Redis",
        FailureCause::Kafka => "Kafka",
        FailureCause::Other => return None,
    };
    let known = MEANINGS.iter().find(|(text, _)| error.contains(text));
    let away = error
        .contains("cannot be reached")
        .then_some("cannot be reached");
    let meaning = known.map(|(_, meaning)| *meaning).or(away);
    meaning.map(|meaning| format!("{store} {meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_store_is_named_with_its_role() {
        use FailureCause::{Kafka, Mysql, Other, Redis};
        let refused =
            "MySQL cannot be reached: Input/output error: Connection refused (os error 111)";
        let reset = "Redis cannot be reached: Connection reset by peer (os error 104)";
        let transport = "the topic cannot be read: Meta data fetch error: BrokerTransportFailure (Local: Broker transport failure)";
        let full = "MySQL: write rows: Table is full";
        for (cause, error, plain) in [
            (Mysql, refused, "MySQL refuses connections"),
            (
                Mysql,
                "MySQL did not answer list alerts within 5s",
                "MySQL does not answer",
            ),
            (Redis, reset, "Redis has closed the connection"),
            (Kafka, transport, "Kafka does not answer"),
            (Other, "it timed out", "it timed out"),
            (Mysql, full, full),
        ] {
            assert_eq!(plainly(Some(cause), error), plain);
        }
    }
}
