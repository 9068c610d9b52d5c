//! The connection to Kafka.

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::{TlsArgs, secret};
use crate::kafka::{GivenProperty, KafkaSettings, Security, Signing};

/// The connection to Kafka.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaArgs {
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
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_parser = secret(|_| Ok(())))]
    kafka_sasl_password: Option<SecretString>,
    /// Any other properties of librdkafka, as `name=value`, several separated by semicolons or
    /// lines
    #[arg(long, env = "KAFKA_PROPERTIES", hide_env_values = true, default_value = "", hide_default_value = true, value_parser = secret(|_| Ok(())))]
    kafka_properties: SecretString,
    /// Secret that signs messages of claims, so that other writers to the topic cannot take a slot.
    /// Required: 32 characters or more, the same in all programs; two separated by a comma while it
    /// is replaced (the first one signs, both are accepted)
    #[arg(long, env = "KAFKA_SIGNING_KEY", hide_env_values = true, value_parser = secret(|_| Ok(())))]
    kafka_signing_key: Option<SecretString>,
}

impl KafkaArgs {
    /// Returns the settings for the clients.
    pub fn settings(&self, tls: &TlsArgs) -> anyhow::Result<KafkaSettings> {
        let key = self.kafka_signing_key.as_ref();
        let key = key.filter(|key| !key.expose_secret().is_empty());
        Ok(KafkaSettings {
            brokers: self.kafka_brokers.clone(),
            topic: self.kafka_topic.clone(),
            group: self.kafka_group.clone(),
            security: self.security(tls).map_err(anyhow::Error::msg)?,
            signing: Signing::new(key).map_err(anyhow::Error::msg)?,
        })
    }

    fn security(&self, tls: &TlsArgs) -> Result<Security, String> {
        let text = |text: &Option<String>| text.clone().map(SecretString::from);
        let protocol = self.kafka_security_protocol.as_ref();
        let protocol = protocol.map(|name| name.to_lowercase());
        let mechanism = self.kafka_sasl_mechanism.as_ref();
        let mechanism = mechanism.map(|name| name.to_uppercase());
        let given = [
            (
                "KAFKA_SECURITY_PROTOCOL",
                "security.protocol",
                text(&protocol),
            ),
            ("KAFKA_SASL_MECHANISM", "sasl.mechanisms", text(&mechanism)),
            (
                "KAFKA_SASL_USERNAME",
                "sasl.username",
                text(&self.kafka_sasl_username),
            ),
            (
                "KAFKA_SASL_PASSWORD",
                "sasl.password",
                self.kafka_sasl_password.clone(),
            ),
        ];
        // A variable that is set but empty, as in docker-compose, counts as not set.
        let given = given.into_iter().filter_map(|(setting, property, value)| {
            let value = value.filter(|value| !value.expose_secret().is_empty())?;
            Some(GivenProperty {
                setting,
                property,
                value,
            })
        });
        Security::new(given.collect(), &tls.files(), &self.kafka_properties)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_broker_addresses_are_refused() {
        assert!(brokers("a:9092,b:9092").is_ok());
        assert!(brokers("a").is_err() && brokers("").is_err() && brokers(":1").is_err());
    }
}
