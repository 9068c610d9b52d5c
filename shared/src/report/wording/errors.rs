//! Translates errors of store clients into plain words for the operator. The log has the original
//! errors.

use super::super::{FailureCause, StoreRefusal};

/// The meanings of a client's errors, identified by parts of their texts, because only the text of
/// an error is passed on.
const MEANINGS: [(&str, &str); 5] = [
    (
        "has a server that does not answer as a master",
        "does not answer as a master",
    ),
    (
        "is at a host name that is not known",
        "failed to lookup|Name or service not known|Temporary failure in name",
    ),
    // A store that has too many connections does answer, and gives that reason.
    (
        "does not answer: nothing listens at its address",
        "Connection refused",
    ),
    (
        "does not answer",
        "timed out|did not answer|no connection within|deadline has \
        elapsed|BrokerTransportFailure|AllBrokersDown|OperationTimedOut|Connection reset|\
        Broken pipe|terminated|unexpected end of file|connection closed|is closed|was closed|\
        been closed|closed the connection|closed by",
    ),
    (
        "is not reachable by the network",
        "No route to host|Network is unreachable",
    ),
];

/// Describes an error of a pass in plain words. Errors that do not concern an unavailable store stay
/// unchanged.
pub fn plainly(cause: Option<FailureCause>, error: &str) -> String {
    let plain = cause.and_then(|cause| unavailable(cause, error));
    plain.unwrap_or_else(|| error.to_owned())
}

/// Describes in plain words that a store is unavailable, or what it refuses, if the error means
/// that.
pub fn unavailable(cause: FailureCause, error: &str) -> Option<String> {
    if let Some(refusal) = StoreRefusal::from_error(cause, error) {
        return Some(refusal.facts().says.to_owned());
    }
    let store = match cause {
        FailureCause::Mysql => "MySQL",
        FailureCause::Redis => "Redis",
        FailureCause::Kafka => "Kafka",
        FailureCause::Other => return None,
    };
    // Clients capitalize their messages differently.
    let lower = error.to_lowercase();
    let known = MEANINGS.iter().find(|(_, texts)| {
        let mut texts = texts.split('|');
        texts.any(|text| lower.contains(&text.to_lowercase()))
    });
    let away = error
        .contains("cannot be reached")
        .then_some("cannot be reached");
    let meaning = known.map(|(meaning, _)| *meaning).or(away);
    meaning.map(|meaning| format!("{store} {meaning}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_unavailable_stores_become_plain_words_and_others_stay() {
        use FailureCause::{Kafka, Mysql, Other, Redis};
        let refused =
            "MySQL cannot be reached: Input/output error: Connection refused (os error 111)";
        let reset = "Redis cannot be reached: Connection reset by peer (os error 104)";
        let transport = "the topic cannot be read: Meta data fetch error: BrokerTransportFailure \
            (Local: Broker transport failure)";
        let full = "MySQL: write rows: The table 'issued_coupons' is full";
        let unknown = "MySQL: write rows: Unknown column 'slot'";
        for (cause, error, plain) in [
            (
                Mysql,
                refused,
                "MySQL does not answer: nothing listens at its address",
            ),
            (
                Mysql,
                "MySQL did not answer list alerts within 5s",
                "MySQL does not answer",
            ),
            (Redis, reset, "Redis does not answer"),
            (
                Redis,
                "a server of the Redis Cluster does not answer as a master: its coupons are \
                closed, and were left out",
                "Redis has a server that does not answer as a master",
            ),
            (
                Mysql,
                "Driver error: Connection to the server is closed.",
                "MySQL does not answer",
            ),
            (
                Mysql,
                "connection closed: failed to lookup address information",
                "MySQL is at a host name that is not known",
            ),
            (Kafka, transport, "Kafka does not answer"),
            (Other, "it timed out", "it timed out"),
            (Mysql, full, "MySQL refuses writes: its disk is full"),
            (Mysql, unknown, unknown),
        ] {
            assert_eq!(plainly(Some(cause), error), plain);
        }
    }
}
