use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::super::jwt::tests::{good, meant};
use super::super::jwt::{JwtArgs, Verifier};
use super::super::problem::TokenProblem;
use super::*;

struct IssuerKey {
    name: &'static str,
    pair: KeyPair,
}

impl IssuerKey {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let key = DecodingKey::from_ec_pem(self.pair.public_key_pem().as_bytes()).unwrap();
        let mut jwk =
            serde_json::to_value(Jwk::from_decoding_key(&key, Some(Algorithm::ES256)).unwrap())
                .unwrap();
        jwk["kid"] = self.name.into();
        jwk
    }

    fn token_naming(&self, name: Option<&str>) -> String {
        let header = Header {
            kid: name.map(str::to_owned),
            ..Header::new(Algorithm::ES256)
        };
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        encode(&header, &good(), &key).unwrap()
    }

    fn token(&self) -> String {
        self.token_naming(Some(self.name))
    }
}

fn set_of(keys: &[&IssuerKey]) -> String {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string()
}

/// An issuer on this machine.
#[derive(Clone)]
struct Issuer {
    url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(set: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self {
            url,
            answer: Arc::new(Mutex::new((StatusCode::OK, set))),
            asked: Arc::default(),
        };
        let this = issuer.clone();
        let keys = get(async move || {
            this.asked.fetch_add(1, Ordering::Relaxed);
            this.answer.lock().clone()
        });
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/keys", keys)).await },
        );
        issuer
    }

    fn says(&self, status: StatusCode, text: impl Into<String>) {
        *self.answer.lock() = (status, text.into());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn verifier(&self) -> Arc<Verifier> {
        verifier(JwtArgs {
            jwt_jwks_url: Some(self.url.clone()),
            ..meant()
        })
    }
}

fn verifier(args: JwtArgs) -> Arc<Verifier> {
    let algorithm = Some(Algorithm::ES256);
    let args = JwtArgs {
        jwt_algorithm: algorithm,
        ..args
    };
    Arc::new(Verifier::new(&args).unwrap())
}

fn refused(tokens: &Arc<Verifier>, token: &str) -> Option<TokenProblem> {
    tokens.identify(token).err().map(|refused| refused.problem)
}

const UNKNOWN: Option<TokenProblem> = Some(TokenProblem::UnknownKey);

#[tokio::test]
async fn rotates_the_keys_of_a_file_at_run_time() {
    let [old, new] = ["old", "new"].map(IssuerKey::new);
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |keys: &[&IssuerKey]| std::fs::write(file.path(), set_of(keys)).unwrap();
    let tokens = verifier(JwtArgs {
        jwt_jwks_url: Some(format!("file://{}", file.path().display())),
        ..meant()
    });
    let keys = tokens.key_set().unwrap();
    write(&[&old]);
    keys.read().await.unwrap();
    assert!(refused(&tokens, &old.token()).is_none());
    assert_eq!(refused(&tokens, &new.token()), UNKNOWN);
    // Both keys are valid while tokens signed by either are in use. The new one is valid
    // immediately.
    write(&[&old, &new]);
    keys.read_for("new").await;
    assert!(refused(&tokens, &old.token()).is_none() && refused(&tokens, &new.token()).is_none());
    assert_eq!(
        refused(&tokens, &old.token_naming(Some("new"))),
        Some(TokenProblem::Signature)
    );
    write(&[&new]);
    keys.read().await.unwrap();
    assert_eq!(refused(&tokens, &old.token()), UNKNOWN);
    assert!(refused(&tokens, &new.token()).is_none());
    // A half-written file changes nothing.
    std::fs::write(file.path(), "{\"keys\": [").unwrap();
    keys.read().await.unwrap_err();
    assert!(refused(&tokens, &new.token()).is_none());
}

#[tokio::test]
async fn unknown_key_names_cause_at_most_one_issuer_request_in_ten_seconds() {
    let [known, new] = ["known", "new"].map(IssuerKey::new);
    let issuer = Issuer::start(set_of(&[&known])).await;
    let tokens = issuer.verifier();
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    let made_up = (0..50).map(|n| async move { keys.read_for(&format!("made-up-{n}")).await });
    futures_util::future::join_all(made_up).await;
    assert_eq!(issuer.asked(), 2);
    issuer.says(StatusCode::OK, set_of(&[&known, &new]));
    keys.read_for("new").await;
    assert_eq!(
        (issuer.asked(), refused(&tokens, &new.token())),
        (2, UNKNOWN)
    );
    *keys.reading.lock().await = Instant::now().checked_sub(ASKED_EVERY);
    futures_util::future::join_all((0..50).map(|_| keys.read_for("new"))).await;
    assert!(issuer.asked() == 3 && refused(&tokens, &new.token()).is_none());
}

#[tokio::test]
async fn keys_stay_valid_for_a_day_if_the_issuer_is_down_or_sends_no_keys() {
    let key = IssuerKey::new("key");
    let issuer = Issuer::start(set_of(&[&key])).await;
    let tokens = issuer.verifier();
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    let ok = StatusCode::OK;
    let moved = StatusCode::FOUND;
    for (status, text, says, passes) in [
        (
            StatusCode::BAD_GATEWAY,
            String::new(),
            "it answered 502 Bad Gateway",
            true,
        ),
        (
            StatusCode::NOT_FOUND,
            String::new(),
            "it answered 404 Not Found",
            false,
        ),
        (moved, String::new(), "it answered 302 Found", false),
        (ok, "<html>".into(), "it is no JWK Set", false),
        (ok, "[]".into(), "it is no JWK Set", false),
        (
            ok,
            json!({"keys": []}).to_string(),
            "no key that can be used for ES256",
            false,
        ),
        (ok, " ".repeat(300_000), "more than 262144 bytes", false),
    ] {
        issuer.says(status, text);
        let error = keys.read().await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert_eq!(matches!(error, FetchError::Away(_)), passes, "{says}");
        assert!(refused(&tokens, &key.token()).is_none(), "{says}");
        assert!(keys.problem().unwrap().contains(says), "{says}");
    }
    // A key that the issuer has withdrawn stays valid for at most a day if the issuer cannot be
    // reached.
    let since = Instant::now().checked_sub(OLDEST).unwrap();
    *keys.failing.lock() = Some((since, "it answered 502 Bad Gateway".into()));
    keys.read().await.unwrap_err();
    assert_eq!(refused(&tokens, &key.token()), UNKNOWN);
    assert!(keys.problem().unwrap().contains("no key is valid"));
    issuer.says(ok, set_of(&[&key]));
    keys.read().await.unwrap();
    assert!(refused(&tokens, &key.token()).is_none());
    assert_eq!(keys.problem(), None);
    let nobody = JwtArgs {
        jwt_jwks_url: Some("http://127.0.0.1:1/keys".into()),
        ..meant()
    };
    let error = verifier(nobody)
        .key_set()
        .unwrap()
        .read()
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Away(_)), "{error}");
}

#[tokio::test]
async fn token_without_key_id_needs_a_set_of_one_key() {
    let [one, other] = ["one", "other"].map(IssuerKey::new);
    let issuer = Issuer::start(set_of(&[&one])).await;
    let tokens = issuer.verifier();
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    assert!(refused(&tokens, &one.token_naming(None)).is_none());
    issuer.says(StatusCode::OK, set_of(&[&one, &other]));
    keys.read().await.unwrap();
    assert!(refused(&tokens, &one.token_naming(None)) == Some(TokenProblem::NoKeyId));
    // A single key without a name fits every token.
    let mut nameless = one.jwk();
    nameless.as_object_mut().unwrap().remove("kid");
    issuer.says(StatusCode::OK, json!({"keys": [nameless]}).to_string());
    keys.read().await.unwrap();
    assert!(refused(&tokens, &one.token()).is_none());
}

#[test]
fn uses_only_strong_keys_that_are_meant_for_tokens() {
    let good = IssuerKey::new("good");
    let with = |name: &str, value: Value| {
        let mut jwk = good.jwk();
        jwk["kid"] = "other".into();
        jwk[name] = value;
        jwk
    };
    let names = |algorithm, keys: Value| -> Vec<String> {
        let used =
            usable(algorithm, json!({"keys": keys}).to_string().as_bytes()).unwrap_or_default();
        used.into_iter().filter_map(|(name, _)| name).collect()
    };
    let secret = json!({"kty": "oct", "kid": "other", "alg": "ES256", "k": "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU"});
    for other in [
        with("use", json!("enc")),
        with("alg", json!("ES384")),
        with("key_ops", json!(["sign"])),
        with("crv", json!("P-384")),
        with("x", json!("AAAA")),
        with("kty", json!("of tomorrow")),
        secret,
        json!(7),
        with("d", json!("x")),
        json!({"kty": "AKP", "alg": "ML-DSA-65", "kid": "other", "pub": "AAAA"}),
        json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "other", "n": "AAAA", "e": "AQAB"}),
    ] {
        assert_eq!(
            names(Algorithm::ES256, json!([other, good.jwk()])),
            ["good"],
            "{other}"
        );
    }
    for fine in [
        with("use", json!("sig")),
        with("key_ops", json!(["verify"])),
    ] {
        assert_eq!(names(Algorithm::ES256, json!([fine])), ["other"]);
    }
    // RSA keys are sized by the modulus, without leading zeros.
    let rsa = |bits: usize| {
        let mut modulus = vec![0; 9];
        modulus.extend((0..bits.div_ceil(8)).map(|at| {
            if at == 0 {
                0xff_u8 >> ((8 - bits % 8) % 8)
            } else {
                0xff
            }
        }));
        json!({"kty": "RSA", "kid": "rsa", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
    };
    for (bits, used) in [(1_024, 0), (2_040, 0), (2_048, 1), (4_096, 1), (4_097, 0)] {
        assert_eq!(
            names(Algorithm::RS256, json!([rsa(bits)])).len(),
            used,
            "{bits}"
        );
    }
}

#[test]
fn file_may_hold_one_public_key_as_pem() {
    let ec = IssuerKey::new("unused");
    let public = ec.pair.public_key_pem();
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let read = |algorithm, pem: &str| usable(algorithm, pem.as_bytes()).map(|keys| keys.len());
    assert_eq!(read(Algorithm::ES256, &public), Ok(1));
    assert_eq!(read(Algorithm::EdDSA, &ed.public_key_pem()), Ok(1));
    for (algorithm, pem, says) in [
        (Algorithm::RS256, public.clone(), "fits RS256"),
        (Algorithm::ES384, public, "fits ES384"),
        (Algorithm::ES256, ec.pair.serialize_pem(), "private key"),
    ] {
        let refused = read(algorithm, &pem).unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
}

/// Algorithm confusion: a token signed with the public key as an HMAC secret.
#[tokio::test]
async fn public_key_is_never_an_hmac_secret() {
    let key = IssuerKey::new("key");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key.pair.public_key_pem()).unwrap();
    let tokens = verifier(JwtArgs {
        jwt_jwks_url: Some(format!("file://{}", file.path().display())),
        ..meant()
    });
    tokens.key_set().unwrap().read().await.unwrap();
    assert_eq!(refused(&tokens, &key.token()), None);
    let forged = EncodingKey::from_secret(key.pair.public_key_pem().as_bytes());
    let forged = encode(&Header::new(Algorithm::HS256), &good(), &forged).unwrap();
    assert_eq!(refused(&tokens, &forged), Some(TokenProblem::Algorithm));
}
