//! Signatures of messages: HMAC-SHA256 over the topic and the message's bytes. By them, consumers
//! recognize messages that an API wrote (docs/decisions/0032-batches-and-signatures.md).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hmac::{Hmac, Mac as _};
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use super::KafkaSettings;
use super::headers::header_of;
use crate::claim::{Claim, Undecodable};
use crate::model::{DeadLetterReason, secrets};

/// The header with the signature, in base64 without padding.
pub const SIGNATURE: &str = "firstcome-signature";

/// Signs and verifies messages.
#[derive(Clone)]
pub struct Signing(
    /// The keys, two during a rotation. The first one signs, and a signature of either is valid.
    Vec<Hmac<Sha256>>,
);

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

impl Signing {
    /// # Errors
    /// Returns a description of the fault in the setting, without the key.
    pub fn new(secret: &SecretString) -> Result<Self, String> {
        let keys: Result<_, _> = secrets("KAFKA_SIGNING_KEY", secret)?
            .iter()
            .map(|key| Hmac::new_from_slice(key.expose_secret().as_bytes()))
            .collect();
        Ok(Self(keys.map_err(|error| error.to_string())?))
    }

    /// Signs a message on a topic.
    pub fn sign(&self, topic: &str, payload: &[u8]) -> String {
        let mac = authenticated(&self.0[0], topic, payload);
        BASE64_STANDARD_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// Returns headers with the signature of a message on a topic.
    pub fn headers(&self, topic: &str, payload: &[u8]) -> OwnedHeaders {
        OwnedHeaders::new_with_capacity(1).insert(Header {
            key: SIGNATURE,
            value: Some(&self.sign(topic, payload)),
        })
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
        let signature = BASE64_STANDARD_NO_PAD
            .decode(signature.ok_or("the message has no signature")?)
            .unwrap_or_default();
        if self.0.iter().any(|key| {
            authenticated(key, topic, payload)
                .verify_slice(&signature)
                .is_ok()
        }) {
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
    /// Returns the claims of a message that Firstcome has signed.
    pub fn claims_of(&self, message: &BorrowedMessage<'_>) -> Result<Vec<Claim>, Undecodable> {
        let payload = message.payload().unwrap_or_default();
        let signature = header_of(message.headers(), SIGNATURE);
        match self.signing.check(message.topic(), payload, signature) {
            Ok(()) => Claim::decode(payload),
            Err(why) => Err(Undecodable {
                reason: DeadLetterReason::Forged,
                error: why.to_owned(),
            }),
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

    fn signing(keys: &str) -> Signing {
        Signing::new(&SecretString::from(keys)).unwrap()
    }

    #[test]
    fn message_is_refused_unless_topic_payload_and_signature_match() {
        let signing = signing(KEYS[0]);
        let signature = signing.sign("claims", b"{}");
        let check = |topic, payload, signature: &str| {
            signing.check(topic, payload, Some(signature.as_bytes()))
        };
        assert_eq!(check("claims", b"{}", &signature), Ok(()));
        assert!(signing.check("claims", b"{}", None).is_err());
        let last = if signature.ends_with('A') { "E" } else { "A" };
        let flipped = format!("{}{last}", &signature[..42]);
        for (topic, payload, signature) in [
            ("claims", &b"{ }"[..], signature.as_str()),
            ("claims2", b"{}", &signature),
            ("claim", b"s{}", &signature),
            ("claims", b"{}", &flipped),
            ("claims", b"{}", ""),
            ("claims", b"{}", "no base64!"),
        ] {
            let checked = check(topic, payload, signature);
            assert!(checked.is_err(), "{topic} {payload:?} {signature}");
        }
    }

    #[test]
    fn two_keys_are_accepted_and_the_first_signs() {
        let [old, new] = KEYS.map(signing);
        let both = signing(&KEYS.join(","));
        let signature = both.sign("t", b"x");
        assert_eq!(signature, old.sign("t", b"x"));
        assert!(new.check("t", b"x", Some(signature.as_bytes())).is_err());
        for signer in [&old, &new] {
            let signature = signer.sign("t", b"x");
            assert_eq!(both.check("t", b"x", Some(signature.as_bytes())), Ok(()));
        }
    }

    #[test]
    fn short_or_empty_signing_key_is_refused_with_a_remedy_and_none_is_printed() {
        for secret in ["", "short"] {
            let error = Signing::new(&SecretString::from(secret)).unwrap_err();
            let advises = error.contains("`openssl rand -hex 32`");
            assert!(advises && error.starts_with("KAFKA_SIGNING_KEY"), "{error}");
        }
        assert!(!format!("{:?}", signing(KEYS[0])).contains(KEYS[0]));
    }
}
