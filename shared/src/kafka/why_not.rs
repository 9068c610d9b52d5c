//! Remembers why connections to brokers fail. librdkafka reports causes in events; its calls report
//! only that they took too long.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaSettings;
use super::error::TopicError;

/// The first failure that a setting may have caused.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<BrokerFailure>>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum BrokerFailure {
    /// Only another setting helps.
    Refused(String),
    /// A stopping broker breaks handshakes off, too, so that it may answer later.
    MayAnswer(String),
}

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
        if let Some(failure) = BrokerFailure::of(error.rdkafka_error_code(), reason) {
            self.0.lock().get_or_insert(failure);
        }
    }
}

impl ConsumerContext for Failures {}

impl BrokerFailure {
    fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        use RDKafkaErrorCode::{
            Authentication, SaslAuthenticationFailed, UnsupportedSASLMechanism,
        };
        // librdkafka also reports a refused login if a broker stopped during the login.
        if reason.contains("mechanisms: (n/a)") {
            return None;
        }
        let logins = [
            Authentication,
            SaslAuthenticationFailed,
            UnsupportedSASLMechanism,
        ];
        if code.is_some_and(|code| logins.contains(&code)) {
            return Some(Self::Refused(format!(
                "Kafka does not let this process in: {reason}; see sasl.mechanism and sasl.username in \
                 KAFKA_PROPERTIES, and KAFKA_SASL_PASSWORD"
            )));
        }
        if reason.contains("certificate") {
            return Some(Self::Refused(format!(
                "Kafka's certificate, or that of this process, is not accepted: {reason}; see SSL_CERT_FILE, the names in \
                 KAFKA_BROKERS, and TLS_CERT_FILE"
            )));
        }
        ["SSL", "security.protocol", "message size"]
            .iter()
            .any(|word| reason.contains(word))
            .then(|| {
                Self::MayAnswer(format!(
                    "{reason}; see security.protocol in KAFKA_PROPERTIES"
                ))
            })
    }
}

impl KafkaSettings {
    /// Explains why no broker has answered. Other brokers than the one that refused may be down
    /// only now, but then this process starts again.
    pub(super) fn why_not(&self, error: &KafkaError, failures: &Failures) -> TopicError {
        match failures.0.lock().take() {
            Some(BrokerFailure::Refused(sentence)) => TopicError::Setting(sentence),
            Some(BrokerFailure::MayAnswer(reason)) => self.unreachable(reason),
            // A port that speaks TLS closes plain-text connections without a reason.
            None => self.unreachable(format!(
                "{error}; see KAFKA_BROKERS, and security.protocol in KAFKA_PROPERTIES"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_a_setting_causes_name_it() {
        let of = |code, reason| BrokerFailure::of(Some(code), reason);
        let tls = RDKafkaErrorCode::SSL;
        let refused = of(tls, "ssl://a:1/bootstrap: certificate verify failed");
        assert!(
            matches!(&refused, Some(BrokerFailure::Refused(it)) if it.contains("SSL_CERT_FILE"))
        );
        let login = RDKafkaErrorCode::Authentication;
        let refused = of(
            login,
            "sasl_ssl://a:1/bootstrap: SASL authentication failed",
        );
        assert!(
            matches!(&refused, Some(BrokerFailure::Refused(it)) if it.contains("KAFKA_SASL_PASSWORD"))
        );
        assert_eq!(of(login, "broker's supported mechanisms: (n/a)"), None);
        let broken_off = of(tls, "SSL handshake failed: unexpected message");
        assert!(matches!(broken_off, Some(BrokerFailure::MayAnswer(_))));
        let down = RDKafkaErrorCode::BrokerTransportFailure;
        assert_eq!(of(down, "c:9092/2: Connection refused"), None);
    }
}
