//! Security of connections to Kafka, and some other properties of librdkafka (`KAFKA_PROPERTIES`).
//! Properties on which promises rest cannot be set.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use secrecy::{ExposeSecret as _, SecretString};

use crate::tls::TlsFiles;

/// Validated librdkafka properties. The default is plain text.
#[derive(Clone, Default)]
pub struct Security(BTreeMap<String, SecretString>);

/// Prints no values, because they include passwords.
impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Security {
    /// `given` has pairs of `name=value`, separated by line breaks or semicolons.
    pub(crate) fn new(
        given: &SecretString,
        password: Option<&SecretString>,
        files: &TlsFiles,
    ) -> Result<Self, String> {
        let mut properties = BTreeMap::new();
        let lines = given.expose_secret().split([';', '\n']).map(str::trim);
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').ok_or(
                "KAFKA_PROPERTIES must be name=value, several separated by semicolons or lines",
            )?;
            let name = name.trim();
            if !may_be_set(name) {
                return Err(format!(
                    "KAFKA_PROPERTIES can't set `{name}`, only {}: what Firstcome promises rests \
                    on its own values",
                    MAY_BE_SET.join(", ")
                ));
            }
            let value = match name {
                "security.protocol" => value.trim().to_lowercase(),
                "sasl.mechanism" | "sasl.mechanisms" => value.trim().to_uppercase(),
                _ => value.trim().to_owned(),
            };
            properties.insert(name.to_owned(), SecretString::from(value));
        }
        if let Some(password) = password {
            properties.insert("sasl.password".to_owned(), password.clone());
        }
        let protocol = properties
            .get("security.protocol")
            .map_or("plaintext", |it| it.expose_secret())
            .to_owned();
        let [is_encrypted, logs_in] =
            ["ssl", "sasl"].map(|part| protocol.split('_').any(|it| it == part));
        // Refuse properties without an effect: an operator would believe that connections are
        // secure.
        if let Some(name) = properties.keys().find(|name| {
            name.starts_with("ssl.") && !is_encrypted || name.starts_with("sasl.") && !logs_in
        }) {
            return Err(format!(
                "KAFKA_PROPERTIES or KAFKA_SASL_PASSWORD sets `{name}`, but security.protocol in \
                KAFKA_PROPERTIES is {protocol}: set it to SSL, SASL_SSL or SASL_PLAINTEXT"
            ));
        }
        for (name, value) in &properties {
            is_accepted(name, value)?;
        }
        // OpenSSL and libcurl are built without a default directory of authorities; `probe`
        // searches the usual locations.
        let probe = Path::new("probe");
        let authorities = files.authorities.as_deref().unwrap_or(probe);
        // librdkafka refuses `https.ca.location` together with `https.ca.pem`.
        let for_provider = (!properties.contains_key("https.ca.pem")).then_some(probe);
        let ours = [
            ("https.ca.location", for_provider),
            ("ssl.ca.location", Some(authorities)),
            ("ssl.certificate.location", files.cert.as_deref()),
            ("ssl.key.location", files.key.as_deref()),
        ];
        for (name, file) in ours {
            if let Some(file) = file
                && (is_encrypted || name.starts_with("https."))
            {
                properties
                    .entry(name.to_owned())
                    .or_insert_with(|| file.display().to_string().into());
            }
        }
        Ok(Self(properties))
    }

    pub fn apply(&self, config: &mut ClientConfig) {
        for (name, value) in &self.0 {
            config.set(name, value.expose_secret());
        }
    }
}

/// The properties that an operator may set: full names, and prefixes that end with a dot. They
/// include none that `KafkaSettings` sets, except one that [`may_be_set`] refuses.
const MAY_BE_SET: [&str; 11] = [
    "broker.address.",
    "client.",
    "compression.",
    "connections.max.idle.ms",
    "debug",
    "enable.sasl.",
    "https.",
    "metadata.max.age.ms",
    "sasl.",
    "security.protocol",
    "ssl.",
];

fn may_be_set(name: &str) -> bool {
    MAY_BE_SET
        .iter()
        .any(|it| name == *it || it.ends_with('.') && name.starts_with(it))
        && name != "ssl.endpoint.identification.algorithm"
}

/// Asks librdkafka whether it knows the property and accepts the value. rdkafka's own error would
/// show the value, which may be a secret.
fn is_accepted(name: &str, value: &SecretString) -> Result<(), String> {
    let mut config = ClientConfig::new();
    config.set(name, value.expose_secret());
    let why = match config.create_native_config() {
        Ok(_) => return Ok(()),
        Err(KafkaError::ClientConfig(_, why, ..)) => why.replace(value.expose_secret(), "…"),
        Err(_) => String::new(),
    };
    Err(format!(
        "KAFKA_PROPERTIES: the Kafka client does not take `{name}`: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: &str, password: Option<&str>) -> Result<Security, String> {
        let password = password.map(SecretString::from);
        Security::new(&properties.into(), password.as_ref(), &TlsFiles::default())
    }

    fn with(others: &str) -> Result<Security, String> {
        read(&format!("security.protocol=SSL; {others}"), None)
    }

    fn applied(security: Result<Security, String>) -> ClientConfig {
        let mut config = ClientConfig::new();
        security.unwrap().apply(&mut config);
        config
    }

    #[test]
    fn properties_reach_the_client_under_librdkafka_names() {
        let ssl = with("client.id=coupons; compression.codec=lz4\n\nssl.cipher.suites=a=b c");
        let login = "security.protocol=SASL_PLAINTEXT; sasl.mechanism=plain; sasl.username=u";
        let [ssl, login] = [ssl, read(login, Some("p"))].map(applied);
        for (config, name, value) in [
            (&ssl, "client.id", "coupons"),
            (&ssl, "compression.codec", "lz4"),
            (&ssl, "ssl.cipher.suites", "a=b c"),
            (&login, "security.protocol", "sasl_plaintext"),
            (&login, "sasl.mechanism", "PLAIN"),
            (&login, "sasl.username", "u"),
            (&login, "sasl.password", "p"),
        ] {
            assert_eq!(config.get(name), Some(value));
        }
    }

    #[test]
    fn identity_provider_is_verified_by_the_usual_authorities_unless_others_are_set() {
        for (others, expected) in [
            ("", Some("probe")),
            ("https.ca.location=/etc/ca.pem", Some("/etc/ca.pem")),
            ("https.ca.pem=x", None),
        ] {
            let config = applied(with(others));
            assert_eq!(config.get("https.ca.location"), expected, "{others}");
        }
    }

    #[test]
    fn properties_that_would_break_a_guarantee_are_refused_by_name() {
        let names = "acks enable.auto.commit enable.ssl.certificate.verification group.instance.id \
            metadata.broker.list no.such.thing reconnect.backoff.max.ms request.required.acks \
            socket.keepalive.enable \
            ssl.endpoint.identification.algorithm transactional.id";
        for name in names.split_whitespace() {
            let said = with(&format!("{name}=hunter2")).unwrap_err();
            let is_named = said.contains(&format!("can't set `{name}`"));
            assert!(is_named && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn invalid_properties_are_refused_without_showing_their_values() {
        let ssl = "security.protocol=SSL;";
        for (properties, password, said) in [
            (&*format!("{ssl} client.id"), None, "name=value"),
            (
                &*format!("{ssl} connections.max.idle.ms=hunter2"),
                None,
                "does not take `connections.max.idle.ms`",
            ),
            // These lack a matching `security.protocol`.
            ("", Some("hunter2"), "sets `sasl.password`, but"),
            (
                "ssl.ca.location=hunter2",
                None,
                "sets `ssl.ca.location`, but",
            ),
        ] {
            let refused = read(properties, password).unwrap_err();
            let is_named = refused.contains(said);
            assert!(is_named && !refused.contains("hunter2"), "{refused}");
        }
    }
}
