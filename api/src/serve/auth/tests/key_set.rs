use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firstcome_stack::tokens::{self, IssuerKey};
use futures_util::future::join_all;
use serde_json::json;

use super::super::jwt::Verifier;
use super::super::jwt::tests::{good, settings};
use super::*;

fn issuer_key(name: &'static str) -> IssuerKey {
    IssuerKey::new(name).unwrap()
}

fn token(key: &IssuerKey) -> String {
    key.token(&good()).unwrap()
}

fn token_naming(key: &IssuerKey, name: Option<&str>) -> String {
    key.token_naming(name, &good()).unwrap()
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
        let routes = Router::new().route("/keys", keys);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        issuer
    }

    fn says(&self, status: StatusCode, text: impl Into<String>) {
        *self.answer.lock() = (status, text.into());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn verifier(url: &str) -> Verifier {
    let url = format!("jwks-url={url}");
    Verifier::new(&settings(&["algorithm=ES256", "secret=", &url])).unwrap()
}

/// Returns why a token is refused.
async fn refused(tokens: &Verifier, token: &str) -> Option<TokenProblem> {
    let found = tokens.identify(token).await;
    found.err().map(|refused| refused.problem)
}

#[tokio::test]
async fn keys_rotate_at_run_time() {
    let [old, new] = ["old", "new"].map(issuer_key);
    let issuer = Issuer::start(set_of(&[])).await;
    let write = |keys: &[&IssuerKey]| issuer.says(StatusCode::OK, set_of(keys));
    let tokens = verifier(&issuer.url);
    let keys = tokens.key_set().unwrap();
    let error = keys.read().await.unwrap_err().to_string();
    assert!(
        error.contains("no key that can be used for ES256"),
        "{error}"
    );
    write(&[&old]);
    keys.read().await.unwrap();
    assert_eq!(refused(&tokens, &token(&old)).await, None);
    // During a rotation, the set has both keys, and both are valid. The new one is valid
    // immediately.
    write(&[&old, &new]);
    assert_eq!(refused(&tokens, &token(&new)).await, None);
    assert_eq!(refused(&tokens, &token(&old)).await, None);
    let foreign = token_naming(&old, Some("new"));
    let wrong = refused(&tokens, &foreign).await;
    assert_eq!(wrong, Some(TokenProblem::Signature));
    write(&[&new]);
    keys.read().await.unwrap();
    let removed = refused(&tokens, &token(&old)).await;
    assert_eq!(removed, Some(TokenProblem::UnknownKey));
}

#[tokio::test]
async fn unknown_key_names_cause_at_most_one_issuer_request_in_ten_seconds() {
    let [known, new] = ["known", "new"].map(issuer_key);
    let issuer = Issuer::start(set_of(&[&known])).await;
    let tokens = verifier(&issuer.url);
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    let names: Vec<String> = (0..50)
        .map(|n| token_naming(&known, Some(&format!("made-up-{n}"))))
        .collect();
    let made_up = join_all(names.iter().map(|token| refused(&tokens, token))).await;
    assert_eq!(made_up, [Some(TokenProblem::UnknownKey); 50]);
    assert_eq!(issuer.asked(), 2);
    issuer.says(StatusCode::OK, set_of(&[&known, &new]));
    let early = refused(&tokens, &token(&new)).await;
    assert_eq!((issuer.asked(), early), (2, Some(TokenProblem::UnknownKey)));
    *keys.reading.lock().await = Instant::now().checked_sub(ASKED_EVERY);
    let tokens = &tokens;
    let new = token(&new);
    let accepted = join_all((0..50).map(|_| refused(tokens, &new))).await;
    assert_eq!((issuer.asked(), accepted), (3, vec![None; 50]));
}

#[tokio::test]
async fn keys_stay_valid_if_the_issuer_is_down_or_sends_no_keys() {
    let [key, new] = ["key", "new"].map(issuer_key);
    let issuer = Issuer::start(set_of(&[&key])).await;
    let tokens = verifier(&issuer.url);
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    let ok = StatusCode::OK;
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
        (
            StatusCode::FOUND,
            String::new(),
            "it answered 302 Found",
            false,
        ),
        (ok, "<html>".into(), "it is no JWK Set", false),
        (ok, "[]".into(), "it is no JWK Set", false),
        (ok, set_of(&[]), "no key that can be used for ES256", false),
        (ok, " ".repeat(300_000), "more than 262144 bytes", false),
    ] {
        issuer.says(status, text);
        let error = keys.read().await.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert_eq!(matches!(error, FetchError::Away(_)), passes, "{says}");
        assert_eq!(refused(&tokens, &token(&key)).await, None, "{says}");
        assert!(keys.problem().unwrap().contains(says), "{says}");
    }
    // The issuer may have a new key.
    let unknown = refused(&tokens, &token(&new)).await;
    assert_eq!(unknown, Some(TokenProblem::KeysAway));
    issuer.says(ok, set_of(&[&key]));
    keys.read().await.unwrap();
    assert_eq!(keys.problem(), None);
}

#[tokio::test]
async fn token_without_key_id_needs_a_set_of_one_key_and_a_nameless_key_fits_all() {
    let [one, other] = ["one", "other"].map(issuer_key);
    let issuer = Issuer::start(set_of(&[&one])).await;
    let tokens = verifier(&issuer.url);
    let keys = tokens.key_set().unwrap();
    keys.read().await.unwrap();
    assert_eq!(refused(&tokens, &token_naming(&one, None)).await, None);
    // Algorithm confusion: a token signed with the public key as an HMAC secret.
    let forged = tokens::token(&json!({"alg": "HS256"}), &good(), one.public());
    let confused = refused(&tokens, &forged).await;
    assert_eq!(confused, Some(TokenProblem::Algorithm));
    issuer.says(StatusCode::OK, set_of(&[&one, &other]));
    keys.read().await.unwrap();
    let nameless = refused(&tokens, &token_naming(&one, None)).await;
    assert_eq!(nameless, Some(TokenProblem::NoKeyId));
    // A single key without a name fits every token.
    let mut nameless = one.jwk();
    nameless.as_object_mut().unwrap().remove("kid");
    issuer.says(StatusCode::OK, json!({"keys": [nameless]}).to_string());
    keys.read().await.unwrap();
    assert_eq!(refused(&tokens, &token(&one)).await, None);
}

#[test]
fn only_strong_keys_that_are_meant_for_tokens_are_used() {
    let good = issuer_key("good");
    let with = |name: &str, value: Value| {
        let mut jwk = good.jwk();
        jwk["kid"] = "other".into();
        jwk[name] = value;
        jwk
    };
    let names = |algorithm, keys: Value| -> Vec<String> {
        let set = json!({"keys": keys}).to_string();
        let used = usable(algorithm, set.as_bytes()).unwrap_or_default();
        used.into_iter().filter_map(|(name, _)| name).collect()
    };
    let secret = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU";
    for other in [
        with("use", json!("enc")),
        with("alg", json!("ES384")),
        with("key_ops", json!(["sign"])),
        with("x", json!("AAAA")),
        with("kty", json!("of tomorrow")),
        with("d", json!("x")),
        json!(7),
        json!({"kty": "oct", "kid": "other", "alg": "ES256", "k": secret}),
        json!({"kty": "AKP", "alg": "ML-DSA-65", "kid": "other", "pub": "AAAA"}),
        json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "other", "n": "AAAA", "e": "AQAB"}),
    ] {
        let used = names(Algorithm::ES256, json!([other, good.jwk()]));
        assert_eq!(used, ["good"], "{other}");
    }
    for fine in [
        with("use", json!("sig")),
        with("key_ops", json!(["verify"])),
    ] {
        assert_eq!(names(Algorithm::ES256, json!([fine])), ["other"]);
    }
    for (bytes, used) in [
        (128, 0),
        (255, 0),
        (256, 1),
        (512, 1),
        (1_024, 1),
        (1_025, 0),
    ] {
        let modulus = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        let rsa = json!({"kty": "RSA", "kid": "rsa", "n": modulus, "e": "AQAB"});
        let names = names(Algorithm::RS256, json!([rsa]));
        assert_eq!(names.len(), used, "{bytes}");
    }
}
