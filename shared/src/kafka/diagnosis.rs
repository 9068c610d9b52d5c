//! Remembers why connections to brokers fail. librdkafka reports causes in events; its calls report
//! only that they took too long.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaSettings;
use super::error::TopicError;

/// The first failure that a setting may have caused: a sentence with the setting, and whether only
/// changing that setting helps. (If not, a broker that was stopping may have broken off the
/// handshake, and a later attempt may succeed.)
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<(String, bool)>>);

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
        if let Some(failure) = failure(error.rdkafka_error_code(), reason) {
            self.0.lock().get_or_insert(failure);
        }
    }
}

impl ConsumerContext for Failures {}

fn failure(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<(String, bool)> {
    use RDKafkaErrorCode::{Authentication, SaslAuthenticationFailed, UnsupportedSASLMechanism};
    let refused = [
        Authentication,
        SaslAuthenticationFailed,
        UnsupportedSASLMechanism,
    ];
    let is_login = code.is_some_and(|code| refused.contains(&code));
    // librdkafka also reports a refused login if a broker stopped during the login.
    if reason.contains("mechanisms: (n/a)") {
        None
    } else if is_login {
        let what = "Kafka does not let this process in";
        let see = "sasl.mechanism and sasl.username in KAFKA_PROPERTIES, and KAFKA_SASL_PASSWORD";
        Some((format!("{what}: {reason}; see {see}"), true))
    } else if reason.contains("certificate") {
        let what = "Kafka's certificate, or that of this process, is not accepted";
        let see = "SSL_CERT_FILE, the names in KAFKA_BROKERS, and TLS_CERT_FILE";
        Some((format!("{what}: {reason}; see {see}"), true))
    } else {
        let words = ["SSL", "security.protocol", "message size"];
        let may_be_tls = words.iter().any(|word| reason.contains(word));
        let sentence = || format!("{reason}; see security.protocol in KAFKA_PROPERTIES");
        may_be_tls.then(|| (sentence(), false))
    }
}

impl KafkaSettings {
    /// Explains why no broker has answered. A refusal by one broker counts as final, although the
    /// other brokers may only be down at the moment: at start-up, the process then ends, and is
    /// started again from outside.
    pub(super) fn why_not(&self, error: &KafkaError, failures: &Failures) -> TopicError {
        match failures.0.lock().take() {
            Some((sentence, true)) => TopicError::Setting(sentence),
            Some((reason, false)) => self.unreachable(&reason),
            // A port that speaks TLS closes plain-text connections without a reason.
            None => self.unreachable(&format!(
                "{error}; see KAFKA_BROKERS, and security.protocol in KAFKA_PROPERTIES"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_caused_by_a_setting_names_the_setting() {
        use RDKafkaErrorCode::{Authentication, BrokerTransportFailure, SSL};
        let untrusted = "ssl://a:1: certificate verify failed";
        let plain_text = "SSL handshake failed: unexpected message";
        let (ca, password) = (
            Some(("SSL_CERT_FILE", true)),
            Some(("KAFKA_SASL_PASSWORD", true)),
        );
        for (code, reason, expected) in [
            (SSL, untrusted, ca),
            (Authentication, "SASL authentication failed", password),
            (Authentication, "broker's supported mechanisms: (n/a)", None),
            (SSL, plain_text, Some(("security.protocol", false))),
            (BrokerTransportFailure, "c:9092/2: Connection refused", None),
        ] {
            let found = failure(Some(code), reason);
            assert_eq!(found.is_some(), expected.is_some(), "{reason}");
            if let Some(((sentence, is_final), (setting, expected))) = found.zip(expected) {
                assert!(sentence.contains(setting), "{sentence}");
                assert_eq!(is_final, expected, "{sentence}");
            }
        }
    }
}
