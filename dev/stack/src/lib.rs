//! Private, throw-away, *real* servers: Redis, MySQL, Kafka, an SMTP sink, and databases of other
//! products, for tests, the demo and `make run`.
//!
//! Missing programs are installed with apt, or fetched once into a cache folder (`FIRSTCOME_CACHE`,
//! otherwise `$XDG_CACHE_HOME/firstcome`, otherwise `~/.cache/firstcome`). Every server listens on
//! a free loopback port and keeps its data in a temporary folder. Servers and folder are removed
//! when the last handle is dropped, and also when the owning process ends in any other way: see
//! [`Stack`].
//!
//! This crate is below the harness (`dev/harness`), and depends on no other crate of the workspace.
//! It is therefore built first, and fetches the servers while the rest is built.
//!
//! A [`FaultProxy`] stands between a client and a server and breaks their connection in chosen
//! ways.

mod background;
mod browser;
mod cache;
mod certificates;
mod clients;
mod clock;
mod cluster_stack;
mod fetch;
mod janitor;
mod kafka;
mod kafka_cluster;
mod kafka_disk;
mod kafka_node;
mod kafka_wire;
mod listener;
mod mail;
mod mariadb;
mod mysql;
mod mysql_pair;
mod ports;
mod postgres;
mod process;
mod program;
mod proxy;
mod redis;
mod redis_cluster;
mod redis_dump;
mod secure;
mod server;
mod shared;
mod stack;
mod temp_dir;
pub mod tokens;
mod wait;

pub use self::redis::{RedisOptions, RedisServer};
pub use browser::{BrowserOptions, BrowserServer, axe};
pub use certificates::CertificateFolder;
pub use clients::put_clients;
pub use clock::{Clocks, ProcessClock};
pub use cluster_stack::ClusterStack;
pub use fetch::{setup, setup_system};
pub use janitor::Janitor;
pub use kafka::{KafkaOptions, KafkaServer};
pub use kafka_cluster::KafkaCluster;
pub use mail::{Behaviour, Mail, MailOptions, MailSink, SinkEncryption};
pub use mariadb::{MariadbOptions, MariadbServer};
pub use mysql::{
    LOCK_WAITS, MysqlOptions, MysqlServer, MysqlSessions, TABLE_LOCK_WAITS, Tables, WRITE_LIMITS,
    mysql_client, mysql_connection, mysql_rows, table_statements, with_database,
};
pub use mysql_pair::MysqlPair;
pub use ports::ReservedPort;
pub use postgres::{PostgresOptions, PostgresServer};
pub use program::{Program, built_program, tail};
pub use proxy::{FaultProxy, ProxyCounters, ProxyFault};
pub use redis_cluster::RedisCluster;
pub use redis_dump::{RedisDump, redis_dump};
pub use secure::{PASSWORD, SecureServers, USER, kafka_login};
pub use server::Server;
pub use shared::BreakableKafka;
pub use stack::{Stack, StackOptions};
pub use wait::{eventually, eventually_some};
