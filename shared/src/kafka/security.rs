//! Security of connections to Kafka, and additional client settings from the operator. Both become
//! librdkafka properties. Settings that would break a guarantee are refused by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::ValueEnum;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use secrecy::{ExposeSecret as _, SecretString};
use strum::IntoStaticStr;

use super::KafkaSettings;
use crate::tls::{Paths, Store, Tls};

/// Whether connections are encrypted, and whether this process logs in with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, IntoStaticStr)]
#[value(rename_all = "SCREAMING_SNAKE_CASE")]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityProtocol {
    /// Neither
    #[default]
    Plaintext,
    /// Encrypted
    Ssl,
    /// With a login, not encrypted
    SaslPlaintext,
    /// Encrypted, with a login
    SaslSsl,
}

impl SecurityProtocol {
    fn name(self) -> &'static str {
        self.into()
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn logs_in(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// How a password is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mechanism {
    /// In plain text
    #[value(name = "PLAIN")]
    Plain,
    /// As proof of its possession
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// As proof of its possession
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }

    /// Returns the feature that librdkafka must be built with.
    fn feature(self) -> &'static str {
        match self {
            Self::Plain => "sasl_plain",
            Self::ScramSha256 | Self::ScramSha512 => "sasl_scram",
        }
    }
}

/// A property of librdkafka set by an operator.
pub(crate) struct ClientSetting {
    /// The setting as the operator wrote it, for error messages.
    label: String,
    name: String,
    value: SecretString,
}

impl ClientSetting {
    /// Parses `name=value`.
    pub(crate) fn of_flag(text: &SecretString) -> Option<Self> {
        let (name, value) = text.expose_secret().split_once('=')?;
        Some(Self {
            label: format!("--kafka-config {name}"),
            name: name.to_owned(),
            value: value.into(),
        })
    }

    /// Reads each variable `KAFKA_CONFIG_…`; an empty variable counts as not set.
    pub(crate) fn of_environment(
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> impl Iterator<Item = Self> {
        variables.filter_map(|(name, value)| {
            let label = name.into_string().ok()?;
            let value = value.into_string().ok()?;
            let name = label
                .strip_prefix("KAFKA_CONFIG_")?
                .to_lowercase()
                .replace('_', ".");
            (!value.is_empty()).then(|| Self {
                label,
                name,
                value: value.into(),
            })
        })
    }
}

/// The settings before they are checked.
#[derive(Default)]
pub(crate) struct SecuritySettings {
    pub(crate) protocol: SecurityProtocol,
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<SecretString>,
    pub(crate) paths: Paths,
    pub(crate) others: Vec<ClientSetting>,
}

/// Validated librdkafka properties. The default is plain text.
#[derive(Clone, Default)]
pub struct Security {
    properties: BTreeMap<String, SecretString>,
    tls: Option<Tls>,
}

/// Prints no values, because they include passwords.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.properties.keys()).finish()
    }
}

impl Security {
    pub(crate) fn new(given: SecuritySettings) -> Result<Self, String> {
        given.fit_together()?;
        let mut this = Self::default();
        if given.protocol != SecurityProtocol::Plaintext {
            this.set("security.protocol", given.protocol.name().to_lowercase());
        }
        if given.protocol.is_encrypted() {
            needs("ssl")?;
            this.tls = Some(Tls::new(Store::Kafka, &given.paths)?);
            // OpenSSL is built without a default directory of authorities; `probe` searches the
            // usual locations.
            let ca = given
                .paths
                .ca
                .as_ref()
                .map_or_else(|| "probe".into(), |path| path.display().to_string());
            this.set("ssl.ca.location", ca);
            for (property, path) in [
                ("ssl.certificate.location", &given.paths.cert),
                ("ssl.key.location", &given.paths.key),
            ] {
                if let Some(path) = path {
                    this.set(property, path.display().to_string());
                }
            }
        }
        if let (Some(mechanism), Some(username), Some(password)) =
            (given.mechanism, given.username, given.password)
        {
            needs(mechanism.feature())?;
            this.set("sasl.mechanisms", mechanism.name());
            this.set("sasl.username", username);
            this.properties.insert("sasl.password".into(), password);
        }
        for other in given.others {
            may_be_set(&other)?;
            this.properties.insert(other.name, other.value);
        }
        Ok(this)
    }

    fn set(&mut self, property: &str, value: impl Into<String>) {
        self.properties
            .insert(property.to_owned(), value.into().into());
    }

    pub(super) fn apply(&self, config: &mut ClientConfig) {
        let everywhere = self
            .properties
            .iter()
            .filter(|(name, _)| !OF_MEMBERS.contains(&name.as_str()));
        for (name, value) in everywhere {
            config.set(name, value.expose_secret());
        }
    }

    /// Returns the operator's value of a property in `OF_MEMBERS`.
    pub fn of_member(&self, property: &str) -> Option<&str> {
        let value = self.properties.get(property)?;
        OF_MEMBERS
            .contains(&property)
            .then(|| value.expose_secret())
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

impl SecuritySettings {
    /// Refuses a login without a password, and certificates with plain text, because operators
    /// would believe that connections are secure.
    fn fit_together(&self) -> Result<(), String> {
        let protocol = self.protocol.name();
        if let (false, Some(name)) = (self.protocol.is_encrypted(), self.paths.first()) {
            return Err(format!(
                "KAFKA_{name} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: set it to SSL or SASL_SSL, or leave the file out"
            ));
        }
        for (is_set, name) in [
            (self.mechanism.is_some(), "KAFKA_SASL_MECHANISM"),
            (self.username.is_some(), "KAFKA_SASL_USERNAME"),
            (self.password.is_some(), "KAFKA_SASL_PASSWORD"),
        ] {
            if is_set && !self.protocol.logs_in() {
                return Err(format!(
                    "{name} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: set it to SASL_SSL, or leave {name} out"
                ));
            }
            if !is_set && self.protocol.logs_in() {
                return Err(format!(
                    "KAFKA_SECURITY_PROTOCOL is {protocol}, which needs {name} too"
                ));
            }
        }
        Ok(())
    }
}

/// Refuses a feature that librdkafka was built without. It is built from source, and a build that
/// lacks a feature would only log that.
fn needs(feature: &str) -> Result<(), String> {
    let built_with = ClientConfig::new()
        .create_native_config()
        .and_then(|config| config.get("builtin.features"));
    let built_with = built_with
        .map_err(|error| format!("cannot read the features of the Kafka client: {error}"))?;
    if built_with.split(',').any(|one| one.trim() == feature) {
        Ok(())
    } else {
        Err(format!(
            "KAFKA_SECURITY_PROTOCOL is not supported: the Kafka client was built without `{feature}` ({built_with})"
        ))
    }
}

/// Properties that only the group's consumers use. Other clients would log that they ignore them.
const OF_MEMBERS: [&str; 2] = ["group.instance.id", "session.timeout.ms"];

/// Properties that have a separate setting, under all their names.
const HAVE_A_SETTING: [(&str, &str); 16] = [
    ("bootstrap.servers", "KAFKA_BROKERS"),
    ("metadata.broker.list", "KAFKA_BROKERS"),
    ("group.id", "KAFKA_GROUP"),
    ("delivery.timeout.ms", "PUBLISH_DEADLINE_MS"),
    ("message.timeout.ms", "PUBLISH_DEADLINE_MS"),
    ("security.protocol", "KAFKA_SECURITY_PROTOCOL"),
    ("sasl.mechanism", "KAFKA_SASL_MECHANISM"),
    ("sasl.mechanisms", "KAFKA_SASL_MECHANISM"),
    ("sasl.username", "KAFKA_SASL_USERNAME"),
    ("sasl.password", "KAFKA_SASL_PASSWORD"),
    ("ssl.ca.location", "KAFKA_CA_FILE"),
    ("ssl.ca.pem", "KAFKA_CA_FILE"),
    ("ssl.certificate.location", "KAFKA_CERT_FILE"),
    ("ssl.certificate.pem", "KAFKA_CERT_FILE"),
    ("ssl.key.location", "KAFKA_KEY_FILE"),
    ("ssl.key.pem", "KAFKA_KEY_FILE"),
];

/// Properties on which guarantees depend, in addition to those that the clients set
/// ([`KafkaSettings`]): no claim is lost, skipped or written twice, and only the configured brokers
/// are used.
const CARRY_PROMISES: [&str; 21] = [
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "enable.gapless.guarantee",
    "enable.ssl.certificate.verification",
    "group.protocol",
    "isolation.level",
    "log.queue",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "message.send.max.retries",
    "offset.store.method",
    "offset.store.path",
    "partitioner",
    "plugin.library.paths",
    "queue.buffering.max.ms",
    "request.required.acks",
    "retries",
    "ssl.endpoint.identification.algorithm",
    "transactional.id",
];

fn may_be_set(setting: &ClientSetting) -> Result<(), String> {
    let ClientSetting { label, name, value } = setting;
    if let Some((_, instead)) = HAVE_A_SETTING.iter().find(|(property, _)| property == name) {
        return Err(format!(
            "{label} can't be set: `{name}` is what {instead} is for"
        ));
    }
    // An in-memory mock broker would acknowledge messages without storing them.
    let is_mock = name.starts_with("test.mock.");
    let is_own = KafkaSettings::sets_itself(name) && !OF_MEMBERS.contains(&name.as_str());
    if is_mock || CARRY_PROMISES.contains(&name.as_str()) || is_own {
        return Err(format!(
            "{label} can't be set: what Firstcome promises rests on its own `{name}`"
        ));
    }
    if name == "group.instance.id" && !is_instance_id(value.expose_secret()) {
        return Err(format!(
            "{label}: give up to 249 letters, digits, dots, underscores and hyphens"
        ));
    }
    // Omit the value, because it may be a secret.
    match ClientConfig::new()
        .set(name, value.expose_secret())
        .create_native_config()
    {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(format!("{label}: the Kafka client has no setting `{name}`"))
        }
        Err(_) => Err(format!(
            "{label}: the Kafka client does not take this value of `{name}`"
        )),
    }
}

/// Whether brokers accept the text as a static member's name.
fn is_instance_id(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    text.len() <= 249 && text.chars().all(fits) && ![".", ".."].contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Security, String> {
        let variables = [(OsString::from(name), OsString::from(value))];
        let others = ClientSetting::of_environment(variables.into_iter()).collect();
        Security::new(SecuritySettings {
            others,
            ..SecuritySettings::default()
        })
    }

    #[test]
    fn client_settings_keep_their_librdkafka_names() {
        let mut config = ClientConfig::new();
        with("KAFKA_CONFIG_CLIENT_ID", "coupons")
            .unwrap()
            .apply(&mut config);
        with("KAFKA_CONFIG_COMPRESSION_CODEC", "lz4")
            .unwrap()
            .apply(&mut config);
        assert_eq!(
            (config.get("client.id"), config.get("compression.codec")),
            (Some("coupons"), Some("lz4"))
        );
        assert!(with("KAFKA_BROKERS", "a:1").unwrap().properties.is_empty());
    }

    #[test]
    fn kafka_settings_that_would_break_a_guarantee_are_refused_by_name() {
        for (name, value) in [
            ("ENABLE_AUTO_COMMIT", "true"),
            ("ENABLE_AUTO_OFFSET_STORE", "true"),
            ("AUTO_OFFSET_RESET", "latest"),
            ("ACKS", "1"),
            ("REQUEST_REQUIRED_ACKS", "1"),
            ("ENABLE_IDEMPOTENCE", "false"),
            ("GROUP_ID", "x"),
            ("BOOTSTRAP_SERVERS", "x:1"),
            ("METADATA_BROKER_LIST", "x:1"),
            ("PARTITION_ASSIGNMENT_STRATEGY", "roundrobin"),
            ("MAX_POLL_INTERVAL_MS", "1"),
            ("LINGER_MS", "1000"),
            ("SECURITY_PROTOCOL", "plaintext"),
            ("SASL_PASSWORD", "hunter2"),
            ("SSL_CA_LOCATION", "x"),
            ("ENABLE_SSL_CERTIFICATE_VERIFICATION", "false"),
            ("SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "none"),
        ] {
            let name = format!("KAFKA_CONFIG_{name}");
            let said = with(&name, value).unwrap_err();
            assert!(
                said.starts_with(&format!("{name} can't be set")) && !said.contains("hunter2"),
                "{said}"
            );
        }
    }

    #[test]
    fn group_member_properties_reach_only_group_consumers() {
        let named = with("KAFKA_CONFIG_GROUP_INSTANCE_ID", "consumer-1").unwrap();
        let mut config = ClientConfig::new();
        named.apply(&mut config);
        assert_eq!(config.get("group.instance.id"), None);
        assert_eq!(named.of_member("group.instance.id"), Some("consumer-1"));
        assert_eq!(named.of_member("session.timeout.ms"), None);
        let patient = with("KAFKA_CONFIG_SESSION_TIMEOUT_MS", "9000").unwrap();
        assert_eq!(patient.of_member("session.timeout.ms"), Some("9000"));
        for name in ["a b", "ä", "..", "a/b"] {
            let refused = with("KAFKA_CONFIG_GROUP_INSTANCE_ID", name).unwrap_err();
            assert!(refused.contains("hyphens"), "{name}: {refused}");
        }
    }

    #[test]
    fn unknown_settings_and_invalid_values_are_refused_without_the_value() {
        let said = with("KAFKA_CONFIG_NO_SUCH_THING", "hunter2").unwrap_err();
        assert!(
            said.contains("no setting `no.such.thing`") && !said.contains("hunter2"),
            "{said}"
        );
        let said = with("KAFKA_CONFIG_SOCKET_SEND_BUFFER_BYTES", "hunter2").unwrap_err();
        assert!(
            said.contains("does not take this value") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn incomplete_login_is_refused_and_the_password_is_not_shown() {
        let given = |protocol, mechanism, username: Option<&str>, password: Option<&str>| {
            SecuritySettings {
                protocol,
                mechanism,
                username: username.map(str::to_owned),
                password: password.map(Into::into),
                ..SecuritySettings::default()
            }
        };
        let scram = Some(Mechanism::ScramSha512);
        let whole = Security::new(given(
            SecurityProtocol::SaslSsl,
            scram,
            Some("u"),
            Some("hunter2"),
        ))
        .unwrap();
        let mut config = ClientConfig::new();
        whole.apply(&mut config);
        assert_eq!(config.get("security.protocol"), Some("sasl_ssl"));
        assert_eq!(
            (config.get("sasl.mechanisms"), config.get("sasl.password")),
            (Some("SCRAM-SHA-512"), Some("hunter2"))
        );
        assert!(!format!("{whole:?}{config:?}").contains("hunter2"));
        for (given, said) in [
            (
                given(SecurityProtocol::SaslSsl, scram, Some("u"), None),
                "needs KAFKA_SASL_PASSWORD too",
            ),
            (
                given(SecurityProtocol::SaslSsl, None, Some("u"), Some("p")),
                "needs KAFKA_SASL_MECHANISM too",
            ),
            (
                given(SecurityProtocol::Ssl, None, Some("u"), None),
                "KAFKA_SASL_USERNAME is set, but",
            ),
            (
                given(SecurityProtocol::Plaintext, None, None, Some("p")),
                "KAFKA_SASL_PASSWORD is set, but",
            ),
        ] {
            let refused = Security::new(given).unwrap_err();
            assert!(refused.contains(said), "{refused}");
        }
        let paths = Paths {
            ca: Some("x.pem".into()),
            ..Paths::default()
        };
        let refused = Security::new(SecuritySettings {
            paths,
            ..SecuritySettings::default()
        })
        .unwrap_err();
        assert!(
            refused.contains("KAFKA_CA_FILE is set, but KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
            "{refused}"
        );
    }

    #[test]
    fn client_supports_every_offered_security_option() {
        for feature in ["ssl", "sasl_plain", "sasl_scram"] {
            needs(feature).unwrap();
        }
        assert!(
            needs("sasl_by_smile")
                .unwrap_err()
                .contains("built without `sasl_by_smile`")
        );
    }
}
