//! The connection to Kafka.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::checked::checked;
use super::{path, secret};
use crate::kafka::{
    ClientSetting, KafkaSettings, Mechanism, Security, SecurityProtocol, SecuritySettings, Signing,
};
use crate::tls::Paths;

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
    /// How connections are encrypted, and whether this process logs in
    #[arg(
        long,
        env = "KAFKA_SECURITY_PROTOCOL",
        value_enum,
        ignore_case = true,
        default_value_t
    )]
    kafka_security_protocol: SecurityProtocol,
    /// How this process logs in to Kafka
    #[arg(long, env = "KAFKA_SASL_MECHANISM", value_enum, ignore_case = true)]
    kafka_sasl_mechanism: Option<Mechanism>,
    /// User to log in to Kafka as
    #[arg(long, env = "KAFKA_SASL_USERNAME")]
    kafka_sasl_username: Option<String>,
    /// Password of KAFKA_SASL_USERNAME
    #[arg(long, env = "KAFKA_SASL_PASSWORD", hide_env_values = true, value_parser = secret(any))]
    kafka_sasl_password: Option<SecretString>,
    /// PEM file of the certificate authorities to trust for Kafka instead of the machine's
    #[arg(long, env = "KAFKA_CA_FILE", value_name = "FILE", value_parser = path)]
    kafka_ca_file: Option<PathBuf>,
    /// PEM file of this process's client certificate for Kafka
    #[arg(long, env = "KAFKA_CERT_FILE", value_name = "FILE", value_parser = path)]
    kafka_cert_file: Option<PathBuf>,
    /// PEM file of the private key of KAFKA_CERT_FILE
    #[arg(long, env = "KAFKA_KEY_FILE", value_name = "FILE", value_parser = path)]
    kafka_key_file: Option<PathBuf>,
    /// Secret that signs messages of claims, so that other writers to the topic cannot take a slot.
    /// Required: 32 characters or more, the same in all programs; two separated by a comma while it
    /// is replaced (the first one signs, both are accepted)
    #[arg(long, env = "KAFKA_SIGNING_KEY", hide_env_values = true, value_parser = secret(any))]
    kafka_signing_key: Option<SecretString>,
    /// Any other setting of the Kafka client (librdkafka); may be repeated. As a variable
    /// `KAFKA_CONFIG_…`, in capitals and with underscores for dots: KAFKA_CONFIG_CLIENT_ID=…
    #[arg(long, value_name = "NAME=VALUE", value_parser = secret(name_and_value))]
    kafka_config: Vec<SecretString>,
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
        let flags = given.kafka_config.iter().filter_map(ClientSetting::of_flag);
        let security = SecuritySettings {
            protocol: given.kafka_security_protocol,
            mechanism: given.kafka_sasl_mechanism,
            username: given.kafka_sasl_username.filter(|name| !name.is_empty()),
            password: given
                .kafka_sasl_password
                .filter(|password| !is_empty(password)),
            paths: Paths::new(
                given.kafka_ca_file,
                given.kafka_cert_file,
                given.kafka_key_file,
            ),
            others: ClientSetting::of_environment(std::env::vars_os())
                .chain(flags)
                .collect(),
        };
        let key = given.kafka_signing_key.filter(|key| !is_empty(key));
        Ok(Self {
            kafka_brokers: given.kafka_brokers,
            kafka_topic: given.kafka_topic,
            kafka_group: given.kafka_group,
            kafka_security: Security::new(security)?,
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

fn name_and_value(text: &str) -> Result<(), String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(()),
        _ => Err("give name=value, as in client.id=firstcome".into()),
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
