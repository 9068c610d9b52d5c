//! All servers at once.

use std::sync::Arc;

use anyhow::Result;

use crate::kafka::{KafkaOptions, KafkaServer};
use crate::mail::{MailOptions, MailSink};
use crate::mysql::{MysqlOptions, MysqlServer};
use crate::redis::{RedisOptions, RedisServer};
use crate::server::Server;
use crate::temp_dir::TempDirGuard;

/// Options for starting each server.
#[derive(Debug, Clone, Default)]
pub struct StackOptions {
    pub redis: RedisOptions,
    pub mysql: MysqlOptions,
    pub kafka: KafkaOptions,
    pub mail: MailOptions,
}

impl StackOptions {
    /// Options for tests: MySQL writes no binary log and never waits for the disk, so a migration
    /// takes 1.3 s instead of 2.3 s. Writes of a killed server survive in the page cache. It also
    /// measures neither memory, statements nor files, because nothing reads these tables of
    /// `performance_schema`. Tests do read locks, sessions and `wait/io/table`.
    pub fn without_fsync() -> Self {
        let arguments = [
            "--innodb-flush-method=nosync",
            "--disable-log-bin",
            "--innodb-flush-log-at-trx-commit=2",
            "--performance-schema-instrument=memory/%=OFF",
            "--performance-schema-instrument=statement/%=OFF",
            "--performance-schema-instrument=wait/io/file/%=OFF",
        ];
        Self {
            mysql: MysqlOptions::with(arguments.map(Into::into).into()),
            ..Self::default()
        }
    }
}

/// Redis, MySQL, Kafka and a mail sink, each ready for use.
///
/// The servers end and their folder is deleted when the stack is dropped, and also when the owning
/// process exits, panics, is interrupted or is killed by SIGKILL.
#[derive(Debug)]
pub struct Stack {
    pub redis: RedisServer,
    pub mysql: MysqlServer,
    pub kafka: KafkaServer,
    pub mail: MailSink,
}

impl Stack {
    /// Starts all servers concurrently and waits until they respond.
    pub async fn start(options: StackOptions) -> Result<Self> {
        let temp = Arc::new(tokio::task::spawn_blocking(TempDirGuard::new).await??);
        let (redis, mysql, kafka, mail) = tokio::try_join!(
            Server::start_in(temp.clone(), options.redis),
            Server::start_in(temp.clone(), options.mysql),
            Server::start_in(temp.clone(), options.kafka),
            MailSink::start(options.mail),
        )?;
        Ok(Self {
            redis,
            mysql,
            kafka,
            mail,
        })
    }

    /// Returns the addresses by the product's variable names. `DATABASE_URL` names the database
    /// `firstcome`.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("REDIS_URL", self.redis.url()),
            ("DATABASE_URL", self.mysql.database_url("firstcome")),
            ("KAFKA_BROKERS", self.kafka.bootstrap()),
            ("SMTP_URL", self.mail.url()),
        ]
    }
}
