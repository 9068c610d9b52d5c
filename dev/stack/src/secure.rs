//! Redis, MySQL and Kafka that refuse plain text and require a login, for tests of TLS and logins.
//! The test itself uses Unix sockets of Redis and MySQL, and a plain-text listener of Kafka.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::certificates::CertificateFolder;
use crate::fetch::{KAFKA_PASSWORD, KAFKA_USER};
use crate::kafka::{KafkaOptions, KafkaServer};
use crate::mysql::{MysqlOptions, MysqlServer};
use crate::ports::ReservedPort;
use crate::proxy::FaultProxy;
use crate::redis::{RedisOptions, RedisServer};
use crate::stack::StackOptions;

/// The user on all servers.
pub const USER: &str = KAFKA_USER;
/// The password of this user.
pub const PASSWORD: &str = KAFKA_PASSWORD;

/// The servers and their certificates.
pub struct SecureServers {
    pub certificates: CertificateFolder,
    redis: SecureRedis,
    mysql: MysqlServer,
    kafka: KafkaServer,
    /// Listeners: plain text, login, and client certificate.
    kafka_ways: [FaultProxy; 3],
}

/// Returns the value of `KAFKA_PROPERTIES` for a login over TLS.
pub fn kafka_login(mechanism: &str, user: &str) -> String {
    format!("security.protocol=SASL_SSL; sasl.mechanism={mechanism}; sasl.username={user}")
}

impl SecureServers {
    pub async fn start() -> Result<Self> {
        let certificates = tokio::task::spawn_blocking(CertificateFolder::make).await??;
        let (redis, mysql, (kafka, kafka_ways)) = tokio::try_join!(
            SecureRedis::start(&certificates),
            mysql(&certificates),
            kafka(&certificates),
        )?;
        Ok(Self {
            certificates,
            redis,
            mysql,
            kafka,
            kafka_ways,
        })
    }

    /// Returns the product's settings for these servers.
    pub fn settings(&self) -> BTreeMap<&'static str, String> {
        let file = |name| self.certificates.path(name);
        [
            ("REDIS_URL", self.redis_url(PASSWORD)),
            ("DATABASE_URL", self.mysql_url(PASSWORD)),
            ("SSL_CERT_FILE", file("ca.pem")),
            ("TLS_CERT_FILE", file("client.pem")),
            ("TLS_KEY_FILE", file("client.key")),
            ("KAFKA_BROKERS", self.kafka_by_login()),
            ("KAFKA_PROPERTIES", kafka_login("SCRAM-SHA-512", USER)),
            ("KAFKA_SASL_PASSWORD", PASSWORD.to_owned()),
        ]
        .into()
    }

    /// Returns the URL of Redis with this password for the user.
    pub fn redis_url(&self, password: &str) -> String {
        format!(
            "rediss://{USER}:{password}@127.0.0.1:{}",
            self.redis.port.number()
        )
    }

    /// Returns the URL of MySQL with this password for the user, without a database.
    pub fn mysql_url(&self, password: &str) -> String {
        let port = self.mysql.port();
        format!("mysql://{USER}:{password}@127.0.0.1:{port}/?require_ssl=true")
    }

    /// Returns the address with `SASL_SSL`, for SCRAM, PLAIN and OAUTHBEARER.
    pub fn kafka_by_login(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_ways[1].port())
    }

    /// Returns the address that accepts a client certificate in place of a login.
    pub fn kafka_by_certificate(&self) -> String {
        format!("127.0.0.1:{}", self.kafka_ways[2].port())
    }

    /// Returns the address at which the test accesses Redis.
    pub fn door_to_redis(&self) -> String {
        format!("unix://{}?user={USER}&pass={PASSWORD}", self.redis.socket)
    }

    /// Returns the address at which the test accesses MySQL, without a database.
    pub fn door_to_mysql(&self) -> Result<String> {
        let socket = self.mysql.instance.dir.join("socket");
        Ok(format!(
            "mysql://root@127.0.0.1/?socket={}",
            socket.display()
        ))
    }

    /// Returns the address at which the test accesses Kafka.
    pub fn door_to_kafka(&self) -> String {
        self.kafka.bootstrap()
    }
}

#[derive(Debug)]
struct SecureRedis {
    port: ReservedPort,
    socket: String,
    _server: RedisServer,
}

impl SecureRedis {
    async fn start(certificates: &CertificateFolder) -> Result<Self> {
        let port = ReservedPort::find()?;
        let socket = certificates.path("redis.socket");
        let options = [
            ("--tls-port", port.number().to_string()),
            ("--tls-cert-file", certificates.path("server.pem")),
            ("--tls-key-file", certificates.path("server.key")),
            ("--tls-ca-cert-file", certificates.path("ca.pem")),
            ("--unixsocket", socket.clone()),
        ];
        let extra_args = options
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect();
        let server = RedisServer::start(RedisOptions {
            extra_args,
            ..RedisOptions::default()
        })
        .await?;
        lock(server.port()).await?;
        Ok(Self {
            port,
            socket,
            _server: server,
        })
    }
}

/// Restricts Redis to one user with a password, and closes the plain-text port.
async fn lock(port: u16) -> Result<()> {
    let mut connection = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    for command in [
        format!("ACL SETUSER {USER} on >{PASSWORD} ~* &* +@all"),
        "ACL SETUSER default off".to_owned(),
        "CONFIG SET port 0".to_owned(),
    ] {
        connection
            .write_all(format!("{command}\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        connection.read_line(&mut answer).await?;
        if answer.trim_end() != "+OK" {
            bail!("Redis answers {answer:?} to {command:?}");
        }
    }
    Ok(())
}

async fn mysql(certificates: &CertificateFolder) -> Result<MysqlServer> {
    let file = |name| certificates.path(name);
    let mut extra_args = StackOptions::without_fsync().mysql.extra_args;
    extra_args.extend([
        format!("--ssl-ca={}", file("ca.pem")),
        format!("--ssl-cert={}", file("server.pem")),
        format!("--ssl-key={}", file("server.key")),
    ]);
    let server = MysqlServer::start(MysqlOptions::with(extra_args)).await?;
    for statement in [
        format!("CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE X509"),
        format!("GRANT ALL ON *.* TO '{USER}'@'%'"),
        "SET GLOBAL require_secure_transport = ON".to_owned(),
    ] {
        server
            .query(&statement)
            .await
            .context("MySQL could not be restricted")?;
    }
    Ok(server)
}

async fn kafka(certificates: &CertificateFolder) -> Result<(KafkaServer, [FaultProxy; 3])> {
    let file = |name| certificates.path(name);
    let module = "org.apache.kafka.common.security";
    let scram = format!("{module}.scram.ScramLoginModule required;");
    let plain = format!("{module}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
    // Kafka's own check for tests: it accepts each token that has not expired.
    let token = format!(
        "{module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"kafka\";"
    );
    let protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECOND:SASL_SSL,THIRD:SSL".to_owned();
    let properties = [
        ("listener.security.protocol.map", protocols),
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", file("server.store.pem")),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.location", file("ca.pem")),
        (
            "listener.name.second.sasl.enabled.mechanisms",
            "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER".to_owned(),
        ),
        (
            "listener.name.second.scram-sha-256.sasl.jaas.config",
            scram.clone(),
        ),
        ("listener.name.second.scram-sha-512.sasl.jaas.config", scram),
        ("listener.name.second.plain.sasl.jaas.config", plain),
        ("listener.name.second.oauthbearer.sasl.jaas.config", token),
        ("listener.name.third.ssl.client.auth", "required".to_owned()),
    ];
    let extra_properties = properties
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    KafkaServer::start_behind_proxies(KafkaOptions {
        extra_properties,
        ..KafkaOptions::default()
    })
    .await
}
