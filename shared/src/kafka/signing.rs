//! Signatures of messages: HMAC-SHA256 over the topic and the message's bytes. Consumers and passes
//! use them to recognize messages that an API wrote
//! (docs/decisions/0032-batches-and-signatures.md).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hmac::{Hmac, Mac as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::KafkaSettings;
use super::trace::header_of;
use crate::event::{ClaimEvent, Fragments, Undecodable};
use crate::http::ops::Tokens;

/// The header with the signature, in base64 without padding.
pub const SIGNATURE: &str = "firstcome-signature";

/// The reason of a dead letter whose message was not written by an API of this installation.
pub const FORGED: &str = "forged";

/// The treatment of messages without a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Unsigned {
    /// Read them: they may be from before KAFKA_SIGNING_KEY was set
    #[default]
    Accept,
    /// Keep them as dead letters (`forged`) that take no slot
    Reject,
}

/// Signs and verifies messages.
#[derive(Clone, Default)]
pub struct Signing {
    /// The first key signs; all verify. If empty, nothing is signed or verified.
    keys: Vec<Hmac<Sha256>>,
    unsigned: Unsigned,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing")
            .field("keys", &self.keys.len())
            .field("unsigned", &self.unsigned)
            .finish()
    }
}

impl Signing {
    /// # Errors
    /// Returns a description of the fault in the settings, without the key.
    pub fn new(secret: Option<&SecretString>, unsigned: Unsigned) -> Result<Self, String> {
        let Some(secret) = secret else {
            if unsigned == Unsigned::Reject {
                return Err("KAFKA_UNSIGNED=reject needs KAFKA_SIGNING_KEY: without a key no signature can be \
                            checked, and every message would be refused"
                    .into());
            }
            return Ok(Self::default());
        };
        let tokens = Tokens::read("KAFKA_SIGNING_KEY", secret)?;
        let key = |token: &SecretString| Hmac::new_from_slice(token.expose_secret().as_bytes());
        let keys = tokens
            .iter()
            .map(key)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        Ok(Self { keys, unsigned })
    }

    /// Signs a message on a topic. Returns `None` if there is no key.
    pub fn sign(&self, topic: &str, payload: &[u8]) -> Option<String> {
        let mac = authenticated(self.keys.first()?, topic, payload);
        Some(BASE64_STANDARD_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// Checks a message's signature.
    ///
    /// # Errors
    /// Returns the reason if the message is rejected.
    pub fn check(
        &self,
        topic: &str,
        payload: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<(), &'static str> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let Some(signature) = signature else {
            return match self.unsigned {
                Unsigned::Accept => Ok(()),
                Unsigned::Reject => {
                    Err("the message has no signature, and KAFKA_UNSIGNED is reject")
                }
            };
        };
        let signature = BASE64_STANDARD_NO_PAD.decode(signature).unwrap_or_default();
        let is_of = |key: &Hmac<Sha256>| {
            authenticated(key, topic, payload)
                .verify_slice(&signature)
                .is_ok()
        };
        if self.keys.iter().any(is_of) {
            Ok(())
        } else {
            Err("the signature is of no key in KAFKA_SIGNING_KEY")
        }
    }
}

/// Includes the topic, so that a message from another topic with the same key is invalid.
fn authenticated(key: &Hmac<Sha256>, topic: &str, payload: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for part in [b"firstcome-claims", topic.as_bytes(), payload] {
        mac.update(part);
        mac.update(&[0]);
    }
    mac
}

impl KafkaSettings {
    /// Returns the claims of a message, parsed separately. An unverified message yields a single
    /// error without any of its fields, so that it cannot affect a slot, drop or user.
    pub fn claims_of(&self, message: &BorrowedMessage<'_>) -> Vec<Result<ClaimEvent, Undecodable>> {
        let payload = message.payload().unwrap_or_default();
        let signature = header_of(message.headers(), SIGNATURE);
        match self.signing.check(message.topic(), payload, signature) {
            Ok(()) => ClaimEvent::decode(payload),
            Err(why) => {
                let reason = FORGED;
                let error = why.to_owned();
                let fragments = Fragments::default();
                vec![Err(Undecodable {
                    reason,
                    error,
                    fragments,
                })]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] = [
        "0123456789abcdef0123456789abcdef",
        "fedcba9876543210fedcba9876543210",
    ];

    fn signing(keys: &str, unsigned: Unsigned) -> Signing {
        Signing::new(Some(&SecretString::from(keys)), unsigned).unwrap()
    }

    #[test]
    fn altered_message_is_refused() {
        let signing = signing(KEYS[0], Unsigned::Accept);
        let signature = signing.sign("claims", b"{}").unwrap();
        let check = |topic, payload, signature: &str| {
            signing.check(topic, payload, Some(signature.as_bytes()))
        };
        assert_eq!(check("claims", b"{}", &signature), Ok(()));
        let flipped = format!(
            "{}{}",
            &signature[..42],
            if signature.ends_with('A') { "E" } else { "A" }
        );
        for (topic, payload, signature) in [
            ("claims", &b"{ }"[..], signature.as_str()),
            ("claims2", b"{}", &signature),
            ("claim", b"s{}", &signature),
            ("claims", b"{}", &flipped),
            ("claims", b"{}", ""),
            ("claims", b"{}", "no base64!"),
        ] {
            assert!(
                check(topic, payload, signature).is_err(),
                "{topic} {payload:?} {signature}"
            );
        }
    }

    #[test]
    fn two_keys_are_accepted_and_the_first_signs() {
        let [old, new] = KEYS.map(|key| signing(key, Unsigned::Reject));
        let both = signing(&KEYS.join(","), Unsigned::Reject);
        let signature = both.sign("t", b"x").unwrap();
        assert_eq!(Some(&signature), old.sign("t", b"x").as_ref());
        assert!(new.check("t", b"x", Some(signature.as_bytes())).is_err());
        for signer in [&old, &new] {
            assert_eq!(
                both.check(
                    "t",
                    b"x",
                    signer.sign("t", b"x").as_deref().map(str::as_bytes)
                ),
                Ok(())
            );
        }
    }

    #[test]
    fn unsigned_message_is_trusted_only_if_configured() {
        assert!(
            signing(KEYS[0], Unsigned::Accept)
                .check("t", b"x", None)
                .is_ok()
        );
        assert!(
            signing(KEYS[0], Unsigned::Reject)
                .check("t", b"x", None)
                .is_err()
        );
        assert!(Signing::default().check("t", b"x", None).is_ok());
        assert!(
            Signing::default()
                .check("t", b"x", Some(b"anything"))
                .is_ok(),
            "without a key nothing is checked"
        );
    }

    #[test]
    fn short_or_missing_signing_key_is_refused_with_a_remedy() {
        let error = Signing::new(None, Unsigned::Reject).unwrap_err();
        assert!(error.contains("needs KAFKA_SIGNING_KEY"), "{error}");
        let error = Signing::new(Some(&SecretString::from("short")), Unsigned::Accept).unwrap_err();
        assert!(
            error.contains("KAFKA_SIGNING_KEY has 5 characters") && error.contains("openssl"),
            "{error}"
        );
        assert!(!format!("{:?}", signing(KEYS[0], Unsigned::Accept)).contains(KEYS[0]));
    }
}
