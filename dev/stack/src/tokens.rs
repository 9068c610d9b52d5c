//! Tokens of made-up users (RFC 7519), signed for tests and load.

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING as ES256, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// Signs a token with a shared secret. `alg` in the header is HS256 or HS512.
pub fn token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let algorithm = match header["alg"].as_str() {
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let text = unsigned(header, claims);
    let signature = hmac::sign(&hmac::Key::new(algorithm, secret), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}")
}

/// A key of an issuer, for ES256.
pub struct IssuerKey {
    name: &'static str,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl IssuerKey {
    pub fn new(name: &'static str) -> Result<Self> {
        let random = SystemRandom::new();
        let failed = |_| anyhow!("ring generates no key");
        let pair = EcdsaKeyPair::generate_pkcs8(&ES256, &random).map_err(failed)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ES256, pair.as_ref(), &random)
            .map_err(|error| anyhow!("ring rejects its own key: {error}"))?;
        Ok(Self { name, pair, random })
    }

    /// Returns the public key: the byte 4, which means "uncompressed", then both coordinates.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// Returns the public key as an entry of a JWK Set.
    pub fn jwk(&self) -> Value {
        let [x, y] = [1..33, 33..65].map(|part| URL_SAFE_NO_PAD.encode(&self.public()[part]));
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.name, "x": x, "y": y})
    }

    /// Signs a token that names this key.
    pub fn token(&self, claims: &Value) -> Result<String> {
        self.token_naming(Some(self.name), claims)
    }

    /// Signs a token that names another key, or none.
    pub fn token_naming(&self, name: Option<&str>, claims: &Value) -> Result<String> {
        let mut header = json!({"alg": "ES256", "typ": "JWT"});
        if let Some(name) = name {
            header["kid"] = name.into();
        }
        let text = unsigned(&header, claims);
        let signature = self.pair.sign(&self.random, text.as_bytes());
        let signature = signature.map_err(|_| anyhow!("ring does not sign"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
