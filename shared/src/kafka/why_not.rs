//! Finds out which setting makes connections to brokers fail. librdkafka reports causes in events,
//! and certificate problems without details.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaSettings;
use super::error::TopicError;
use crate::tls::{HandshakeAnswer, Store, Tls};

/// For each broker, the first connection failure that a setting may have caused.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<String, BrokerFailure>>);

/// The result if no broker returned metadata of the topic.
#[derive(Debug)]
pub(super) struct NoMetadata {
    /// The error of the call.
    pub(super) error: KafkaError,
    pub(super) failure: Option<BrokerFailure>,
    /// Whether every broker failed in this way. If not, a broker that is only temporarily
    /// unavailable may still respond.
    pub(super) everywhere: bool,
}

impl From<KafkaError> for NoMetadata {
    fn from(error: KafkaError) -> Self {
        Self {
            error,
            failure: None,
            everywhere: true,
        }
    }
}

/// A failure with librdkafka's message.
#[derive(Debug, Clone)]
pub(super) enum BrokerFailure {
    /// A broker refused the login.
    Login(String),
    /// Only one side uses TLS, or one side does not trust the certificate of the other.
    Tls(String),
}

impl Failures {
    /// Returns one of the failures, and the number of these brokers that have failed.
    pub(super) fn so_far(&self, brokers: &BTreeSet<&str>) -> (Option<BrokerFailure>, usize) {
        let failures = self.0.lock();
        let refusing = brokers
            .iter()
            .filter(|broker| failures.contains_key(**broker))
            .count();
        (failures.values().next().cloned(), refusing)
    }
}

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
        if let Some(failure) = BrokerFailure::of(error.rdkafka_error_code(), reason) {
            self.0
                .lock()
                .entry(address(reason).to_owned())
                .or_insert(failure);
        }
    }
}

impl ConsumerContext for Failures {}

/// Extracts the broker's address. librdkafka's message starts with `protocol://host:port/node: `,
/// or with another name of the broker.
fn address(reason: &str) -> &str {
    let broker = reason.split_once(": ").map_or("", |(broker, _)| broker);
    let broker = broker
        .split_once("://")
        .map_or(broker, |(_, address)| address);
    broker
        .split_once('/')
        .map_or(broker, |(address, _)| address)
}

impl BrokerFailure {
    fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        let is_login = matches!(
            code,
            Some(
                RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::UnsupportedSASLMechanism
            )
        );
        // librdkafka also reports a refused login if a broker stopped during the login.
        let is_gone = reason.contains("mechanisms: (n/a)");
        if is_gone {
            None
        } else if is_login {
            Some(Self::Login(reason.to_owned()))
        } else if reason.contains("SSL")
            || reason.contains("security.protocol")
            || reason.contains("message size")
        {
            Some(Self::Tls(reason.to_owned()))
        } else {
            None
        }
    }
}

impl KafkaSettings {
    pub(super) async fn why_not(
        &self,
        NoMetadata {
            error,
            failure,
            everywhere,
        }: NoMetadata,
    ) -> TopicError {
        if let KafkaError::ClientCreation(reason) = error {
            return TopicError::Setting(format!(
                "the Kafka client can't be set up: {reason}; see KAFKA_CONFIG_…"
            ));
        }
        if let Some(BrokerFailure::Login(reason)) = &failure {
            let sentence = format!(
                "Kafka does not let this process in: {reason}; see KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            );
            return self.refused(sentence, everywhere);
        }
        // A TLS port closes plain-text connections, and librdkafka only reports that no broker
        // answers.
        if (failure.is_some() || self.security.tls().is_none())
            && let Some((sentence, everywhere)) = self.ask_each().await
        {
            return self.refused(sentence, everywhere);
        }
        match failure {
            Some(BrokerFailure::Tls(reason)) if reason.contains("certificate verify failed") => {
                self.refused(format!("Kafka: {reason}; see KAFKA_CA_FILE"), everywhere)
            }
            // A stopping broker also interrupts handshakes, so keep retrying.
            Some(BrokerFailure::Tls(reason)) if reason.contains("PLAINTEXT broker") => self.unreachable(
                "it breaks the TLS handshake off, as a port for plain text does: see KAFKA_SECURITY_PROTOCOL".into(),
            ),
            Some(BrokerFailure::Tls(reason)) => self.unreachable(reason),
            _ => self.unreachable(error.to_string()),
        }
    }

    /// If only some brokers are misconfigured, waits for the others.
    fn refused(&self, sentence: String, everywhere: bool) -> TopicError {
        if everywhere {
            TopicError::Setting(sentence)
        } else {
            self.unreachable(sentence)
        }
    }

    /// Tries a handshake with each broker. Returns what to change according to the first failure,
    /// and whether all failed.
    async fn ask_each(&self) -> Option<(String, bool)> {
        let encrypted = self.security.tls();
        let tls = encrypted
            .cloned()
            .unwrap_or_else(|| Tls::public(Store::Kafka));
        let mut sentence = None;
        let mut everywhere = true;
        for broker in self.addresses() {
            let Some((host, Ok(port))) = broker
                .rsplit_once(':')
                .map(|(host, port)| (host, port.parse()))
            else {
                continue;
            };
            let host = host.trim_matches(['[', ']']);
            let why = match (encrypted, tls.probe(host, port).await) {
                (Some(_), HandshakeAnswer::Fault(why)) => why,
                (Some(_), HandshakeAnswer::PlainText) => {
                    "it answers in plain text: give the port on which it speaks TLS, or see KAFKA_SECURITY_PROTOCOL"
                        .into()
                }
                (None, HandshakeAnswer::Fine | HandshakeAnswer::Fault(_)) => {
                    "it speaks TLS: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL".to_owned()
                }
                _ => {
                    everywhere = false;
                    continue;
                }
            };
            sentence.get_or_insert(format!("Kafka at {host}:{port} can't be used: {why}"));
        }
        Some((sentence?, everywhere))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_broker() {
        let failures = Failures::default();
        let refuse = |broker: &str, reason: &str| {
            let error = KafkaError::Global(RDKafkaErrorCode::SSL);
            failures.error(
                error,
                &format!("ssl://{broker}/bootstrap: SSL handshake failed: {reason}"),
            );
        };
        let brokers = BTreeSet::from(["a:9092", "b:9092"]);
        let so_far = || failures.so_far(&brokers);
        assert!(matches!(so_far(), (None, 0)));
        refuse("a:9092", "certificate verify failed");
        refuse("a:9092", "certificate verify failed again");
        refuse("GroupCoordinator", "certificate verify failed");
        assert!(
            matches!(so_far(), (Some(BrokerFailure::Tls(reason)), 1) if !reason.contains("again"))
        );
        refuse("b:9092", "certificate verify failed");
        assert_eq!(so_far().1, 2);
        failures.error(
            KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure),
            "c:9092/2: Connection refused",
        );
        assert_eq!(so_far().1, 2, "one that is down has not refused");
    }
}
