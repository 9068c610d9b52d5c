//! Why no broker answers, in a sentence where a setting is the reason. librdkafka tells it by
//! events, and of a certificate only that it could not be verified.

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::KafkaSettings;
use super::topic::TopicError;
use crate::tls::{Answer, Store, Tls};

/// Keeps the first reason for which a connection failed that may be a setting.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Option<Failure>>);

/// Each with librdkafka's own words.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// A broker did not accept the log-in.
    Login(String),
    /// One side speaks TLS, and the other does not, or does not believe it.
    Tls(String),
}

impl Failures {
    pub(super) fn first(&self) -> Option<Failure> {
        self.0.lock().clone()
    }
}

impl ClientContext for Failures {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka");
        if let Some(failure) = Failure::of(error.rdkafka_error_code(), reason) {
            self.0.lock().get_or_insert(failure);
        }
    }
}

impl ConsumerContext for Failures {}

impl Failure {
    fn of(code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Self> {
        let is_login = matches!(
            code,
            Some(
                RDKafkaErrorCode::Authentication
                    | RDKafkaErrorCode::SaslAuthenticationFailed
                    | RDKafkaErrorCode::UnsupportedSASLMechanism
            )
        );
        // A broker that went away in the middle of it is said to have refused the log-in.
        let is_gone = reason.contains("mechanisms: (n/a)");
        if is_gone {
            None
        } else if is_login {
            Some(Self::Login(reason.to_owned()))
        } else if reason.contains("SSL") || reason.contains("security.protocol") || reason.contains("message size") {
            Some(Self::Tls(reason.to_owned()))
        } else {
            None
        }
    }
}

impl KafkaSettings {
    /// `source` is what the call gave.
    pub(super) async fn why_not(&self, source: &KafkaError, failure: Option<Failure>) -> TopicError {
        if let KafkaError::ClientCreation(reason) = source {
            return TopicError::Setting(format!("the Kafka client can't be set up: {reason}; see KAFKA_CONFIG_…"));
        }
        match failure {
            // A port for TLS hangs up on plain text; librdkafka says only that nobody answers.
            None if self.security.tls().is_none() => match self.ask_each().await {
                Some(sentence) => TopicError::Setting(sentence),
                None => self.unreachable(source.to_string()),
            },
            None => self.unreachable(source.to_string()),
            Some(Failure::Login(reason)) => TopicError::Setting(format!(
                "Kafka does not let this process in: {reason}; see KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
            )),
            Some(Failure::Tls(reason)) => match self.ask_each().await {
                Some(sentence) => TopicError::Setting(sentence),
                None if reason.contains("certificate verify failed") => {
                    TopicError::Setting(format!("Kafka: {reason}; see KAFKA_CA_FILE"))
                }
                // A broker that stops breaks a handshake off too, so this one is waited for.
                None if reason.contains("PLAINTEXT broker") => self.unreachable(
                    "it breaks the TLS handshake off, as a port for plain text does: see KAFKA_SECURITY_PROTOCOL"
                        .into(),
                ),
                None => self.unreachable(reason),
            },
        }
    }

    /// A handshake with each broker: the first that shows what to change.
    async fn ask_each(&self) -> Option<String> {
        let encrypted = self.security.tls();
        let tls = encrypted.cloned().unwrap_or_else(|| Tls::public(Store::Kafka));
        for broker in self.brokers.split(',') {
            let Some((host, port)) = broker.trim().rsplit_once(':') else { continue };
            let Ok(port) = port.parse() else { continue };
            let host = host.trim_matches(['[', ']']);
            let why = match (encrypted, tls.probe(host, port).await) {
                (Some(_), Answer::Fault(why)) => why,
                (Some(_), Answer::PlainText) => {
                    "it answers in plain text: give the port on which it speaks TLS, or see KAFKA_SECURITY_PROTOCOL"
                        .into()
                }
                (None, Answer::Fine | Answer::Fault(_)) => {
                    "it speaks TLS: set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL".to_owned()
                }
                _ => continue,
            };
            return Some(format!("Kafka at {host}:{port} can't be used: {why}"));
        }
        None
    }
}
