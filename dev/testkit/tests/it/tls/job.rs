//! Claims and repairs, with TLS and logins on Redis, MySQL and Kafka at once.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use firstcome_stack::{PASSWORD, USER, kafka_login};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, all_issued, assert_clean, assert_exact, people, rush, tally};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::drift::damage::{Case, repair};
use crate::drift::support::{assert_settled, injector};
use crate::tls::{servers, world};

/// This is a single test, because its last part closes the gates of all coupons on this Redis.
#[tokio::test]
async fn claims_and_repairs_work_over_tls_with_logins() {
    let fixture = Fixture::of(world("tls").await).await;
    rush_is_exact(&fixture).await;
    repairs_work(&fixture).await;
    the_gate_is_opened_again(&fixture).await;
}

async fn rush_is_exact(fixture: &Fixture) {
    let coupon = fixture.api.open_coupon(100).await;
    let answers = rush(&[&fixture.api], coupon.id, &people(300), 100).await;
    assert_eq!(
        tally(&answers),
        [("accepted".into(), 100), ("sold_out".into(), 200)].into()
    );
    all_issued(&fixture.world, coupon.drop, 100).await;
    assert_exact(&fixture.world, &coupon, 100, &answers).await;
    assert_clean(&fixture.world.pass().await, &coupon);
}

async fn repairs_work(fixture: &Fixture) {
    let case = |damage, n, kinds, held, end| Case {
        damage,
        n,
        kinds,
        held,
        end,
    };
    // One kind of damage for each connection from the reconciler to a store.
    let cases = [
        case(Drift::Unissued, 3, &["unissued"][..], 20, 20),
        case(Drift::FailedDuplicate, 2, &["failed_claim"], 12, 12),
        case(Drift::RedisLost, 1, &["redis_lost"], 20, 20),
    ];
    repair(fixture, &cases).await;
}

async fn the_gate_is_opened_again(fixture: &Fixture) {
    let (coupon, answers) = fixture.held("Gate", 20, 12).await;
    injector(&fixture.world, &coupon)
        .await
        .make(Drift::RedisGate, 1)
        .await
        .unwrap();
    assert!(
        fixture
            .api
            .claim(coupon.id, "u-late")
            .await
            .is("unavailable"),
        "closed while unsure"
    );
    assert_eq!(fixture.world.once_with(&[], &[]).await.code, 0);
    assert_settled(&fixture.world, &coupon, 20, 12, &answers).await;
    assert_eq!(
        fixture.api.claim(coupon.id, "u-late").await.promised(),
        Some((coupon.drop, 13))
    );
}

#[tokio::test]
async fn every_kafka_login_method_works() {
    let world = world("tls-kafka").await;
    let servers = servers().await;
    let login = servers.kafka_by_login();
    let certificate = servers.kafka_by_certificate();
    for mechanism in ["SCRAM-SHA-256", "scram-sha-512", "PLAIN"] {
        let properties = kafka_login(mechanism, USER);
        let env = [
            ("KAFKA_BROKERS", login.as_str()),
            ("KAFKA_PROPERTIES", properties.as_str()),
        ];
        let once = world.once_with(&[], &env).await;
        assert_eq!(once.code, 0, "{mechanism}: {}", once.log);
    }
    let env = [
        ("KAFKA_BROKERS", certificate.as_str()),
        ("KAFKA_PROPERTIES", "security.protocol=SSL"),
        ("KAFKA_SASL_PASSWORD", ""),
    ];
    let once = world.once_with(&[], &env).await;
    assert_eq!(once.code, 0, "{}", once.log);
}

#[tokio::test]
async fn kafka_accepts_the_token_of_an_identity_provider() {
    let world = world("tls-token").await;
    let provider = start_identity_provider().await;
    let properties = format!(
        "security.protocol=SASL_SSL; sasl.mechanism=OAUTHBEARER; sasl.oauthbearer.method=oidc; sasl.oauthbearer.client.id={USER}; \
         sasl.oauthbearer.client.secret={PASSWORD}; sasl.oauthbearer.token.endpoint.url={provider}"
    );
    for (name, value) in [
        ("KAFKA_SASL_PASSWORD", ""),
        ("KAFKA_PROPERTIES", &properties),
    ] {
        world.set(name, value);
    }
    rush_is_exact(&Fixture::of(world).await).await;
}

/// Starts a server that answers each request with an unsigned token. Returns its address.
async fn start_identity_provider() -> String {
    let encode = |claims: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    let now = chrono::Utc::now().timestamp();
    let token = format!(
        "{}.{}.",
        encode(serde_json::json!({ "alg": "none" })),
        encode(serde_json::json!({ "sub": USER, "iat": now, "exp": now + 3_600 })),
    );
    let body = serde_json::json!({ "access_token": token, "token_type": "Bearer" }).to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.contains("grant_type=client_credentials") {
                let mut part = [0; 4_096];
                let length = stream.read(&mut part).await.unwrap();
                assert_ne!(length, 0, "{request}");
                request.push_str(&String::from_utf8_lossy(&part[..length]));
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    format!("http://{address}/token")
}
