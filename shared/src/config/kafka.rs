//! The connection to Kafka.

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::{TlsArgs, secret};
use crate::kafka::{KafkaSettings, Security, Signing};

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
    /// Properties of librdkafka, as `name=value`, several separated by semicolons or lines. For an
    /// encrypted connection with a login: `security.protocol=SASL_SSL;
    /// sasl.mechanism=SCRAM-SHA-512; sasl.username=NAME`
    #[arg(long, env = "KAFKA_PROPERTIES", hide_env_values = true, default_value = "", hide_default_value = true, value_parser = secret(|_| Ok(())))]
    kafka_properties: SecretString,
    /// Password of the `sasl.username` in KAFKA_PROPERTIES
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_parser = secret(|_| Ok(())))]
    kafka_sasl_password: Option<SecretString>,
    /// Secret that signs messages of claims, so that other writers to the topic cannot take a slot.
    /// 32 characters or more, the same in all programs; two separated by a comma while it
    /// is replaced (the first one signs, both are accepted)
    #[arg(long, env = "KAFKA_SIGNING_KEY", hide_env_values = true, value_parser = secret(|_| Ok(())))]
    kafka_signing_key: SecretString,
}

impl KafkaArgs {
    /// Checks the address of an attached system's Kafka, and returns the security of connections to
    /// it.
    pub fn at(
        addresses: &str,
        properties: &SecretString,
        tls: &TlsArgs,
    ) -> anyhow::Result<Security> {
        brokers(addresses).map_err(anyhow::Error::msg)?;
        Security::new(properties, None, &tls.files()).map_err(anyhow::Error::msg)
    }

    /// Returns the settings for the clients.
    pub fn settings(&self, tls: &TlsArgs) -> anyhow::Result<KafkaSettings> {
        // A variable that is set but empty, as in docker-compose, counts as not set.
        let password = self
            .kafka_sasl_password
            .as_ref()
            .filter(|secret| !secret.expose_secret().is_empty());
        let security = Security::new(&self.kafka_properties, password, &tls.files());
        Ok(KafkaSettings {
            brokers: self.kafka_brokers.clone(),
            topic: self.kafka_topic.clone(),
            group: self.kafka_group.clone(),
            security: security.map_err(anyhow::Error::msg)?,
            signing: Signing::new(&self.kafka_signing_key).map_err(anyhow::Error::msg)?,
        })
    }
}

fn brokers(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(
            "give host:port without a protocol: that is what security.protocol in \
            KAFKA_PROPERTIES is for"
                .into(),
        );
    }
    if text
        .split(',')
        .all(|broker| !broker.trim().starts_with(':') && broker.contains(':'))
    {
        Ok(text.to_owned())
    } else {
        Err("give host:port, several by commas".into())
    }
}
