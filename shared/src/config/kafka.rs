//! The connection to Kafka.

use clap::Args;
use secrecy::SecretString;

use super::checked::checked;
use super::secret;
use crate::kafka::{GivenProperty, KafkaSettings, Security, Signing};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
struct KafkaGiven {
    /// Kafka brokers as `host:port`, several separated by commas
    #[arg(long, env = "KAFKA_BROKERS", value_parser = brokers)]
    kafka_brokers: String,
    /// Topic of claims
    #[arg(long, env = "KAFKA_TOPIC", default_value = "coupon-claims")]
    kafka_topic: String,
    /// Consumer group that writes rows
    #[arg(long, env = "KAFKA_GROUP", default_value = "firstcome-issuer")]
    kafka_group: String,
    /// How connections are encrypted, and whether this process logs in: PLAINTEXT (default), SSL,
    /// SASL_SSL or SASL_PLAINTEXT
    #[arg(long, env = "KAFKA_SECURITY_PROTOCOL", value_name = "PROTOCOL")]
    kafka_security_protocol: Option<String>,
    /// How this process logs in to Kafka: SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER
    #[arg(long, env = "KAFKA_SASL_MECHANISM", value_name = "MECHANISM")]
    kafka_sasl_mechanism: Option<String>,
    /// User to log in to Kafka as
    #[arg(long, env = "KAFKA_SASL_USERNAME")]
    kafka_sasl_username: Option<String>,
    /// Password of KAFKA_SASL_USERNAME
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_parser = secret(any))]
    kafka_sasl_password: Option<SecretString>,
    /// PEM file of the certificate authorities to trust for Kafka instead of the machine's
    #[arg(long, env = "KAFKA_CA_FILE", value_name = "FILE")]
    kafka_ca_file: Option<String>,
    /// PEM file of this process's client certificate for Kafka
    #[arg(long, env = "KAFKA_CERT_FILE", value_name = "FILE")]
    kafka_cert_file: Option<String>,
    /// PEM file of the private key of KAFKA_CERT_FILE
    #[arg(long, env = "KAFKA_KEY_FILE", value_name = "FILE")]
    kafka_key_file: Option<String>,
    /// Any other properties of librdkafka, as `name=value`, several separated by semicolons or
    /// lines
    #[arg(long, env = "KAFKA_PROPERTIES", hide_env_values = true, default_value = "", hide_default_value = true, value_parser = secret(any))]
    kafka_properties: SecretString,
    /// Secret that signs messages of claims, so that other writers to the topic cannot take a slot.
    /// Required: 32 characters or more, the same in all programs; two separated by a comma while it
    /// is replaced (the first one signs, both are accepted)
    #[arg(long, env = "KAFKA_SIGNING_KEY", hide_env_values = true, value_parser = secret(any))]
    kafka_signing_key: Option<SecretString>,
}

/// The connection to Kafka.
#[derive(Debug, Clone)]
pub struct KafkaArgs {
    pub kafka_brokers: String,
    pub kafka_topic: String,
    pub kafka_group: String,
    pub kafka_security: Security,
    pub kafka_signing: Signing,
}

checked!(KafkaGiven => KafkaArgs);

impl TryFrom<KafkaGiven> for KafkaArgs {
    type Error = String;

    fn try_from(given: KafkaGiven) -> Result<Self, String> {
        let settings = [
            (
                "KAFKA_SECURITY_PROTOCOL",
                "security.protocol",
                given
                    .kafka_security_protocol
                    .map(|name| name.to_lowercase()),
            ),
            (
                "KAFKA_SASL_MECHANISM",
                "sasl.mechanisms",
                given.kafka_sasl_mechanism.map(|name| name.to_uppercase()),
            ),
            (
                "KAFKA_SASL_USERNAME",
                "sasl.username",
                given.kafka_sasl_username,
            ),
            ("KAFKA_CA_FILE", "ssl.ca.location", given.kafka_ca_file),
            (
                "KAFKA_CERT_FILE",
                "ssl.certificate.location",
                given.kafka_cert_file,
            ),
            ("KAFKA_KEY_FILE", "ssl.key.location", given.kafka_key_file),
        ];
        let password = given.kafka_sasl_password;
        // A variable that is set but empty, as in docker-compose, counts as not set.
        let properties = settings
            .map(|(setting, property, value)| (setting, property, value.map(SecretString::from)))
            .into_iter()
            .chain([("KAFKA_SASL_PASSWORD", "sasl.password", password)])
            .filter_map(|(setting, property, value)| {
                let value = value.filter(|value| !is_empty(value))?;
                Some(GivenProperty {
                    setting,
                    property,
                    value,
                })
            })
            .collect();
        let key = given.kafka_signing_key.filter(|key| !is_empty(key));
        Ok(Self {
            kafka_brokers: given.kafka_brokers,
            kafka_topic: given.kafka_topic,
            kafka_group: given.kafka_group,
            kafka_security: Security::new(properties, &given.kafka_properties)?,
            kafka_signing: Signing::new(key.as_ref())?,
        })
    }
}

impl KafkaArgs {
    /// Returns the settings for the clients.
    pub fn settings(&self) -> KafkaSettings {
        KafkaSettings {
            brokers: self.kafka_brokers.clone(),
            topic: self.kafka_topic.clone(),
            group: self.kafka_group.clone(),
            security: self.kafka_security.clone(),
            signing: self.kafka_signing.clone(),
        }
    }
}

fn brokers(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(
            "give host:port without a protocol: that is what KAFKA_SECURITY_PROTOCOL is for".into(),
        );
    }
    let fine = |broker: &str| {
        broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if text.split(',').all(|b| fine(b.trim())) {
        Ok(text.to_owned())
    } else {
        Err("give host:port, several by commas".into())
    }
}

fn is_empty(secret: &SecretString) -> bool {
    use secrecy::ExposeSecret as _;
    secret.expose_secret().is_empty()
}

#[allow(clippy::unnecessary_wraps)] // matches `SecretCheck`
fn any(_: &str) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_broker_addresses_are_refused() {
        assert!(brokers("a:9092,b:9092").is_ok());
        assert!(brokers("a").is_err() && brokers("").is_err() && brokers(":1").is_err());
    }
}
