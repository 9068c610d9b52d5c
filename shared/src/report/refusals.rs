//! Refusals: what a store that answers says when it refuses writes, commands or connections. Mails,
//! `/readyz` and the command line take the sentence, the remedy and the command from this table.

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::FailureCause;

/// A refusal of a store that answers: those that have a remedy of their own, and the others, whose
/// words the mail quotes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, VariantArray, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum StoreRefusal {
    /// `MISCONF`: the append-only file or the last snapshot cannot be written.
    RedisDisk,
    /// `OOM`
    RedisMemory,
    /// `READONLY`
    RedisReplica,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`
    RedisLogin,
    MysqlDisk,
    /// Commits wait: [`COMMITS_HANG`].
    MysqlCommits,
    MysqlReadOnly,
    /// Error 1045, or another about the rights of this user.
    MysqlLogin,
    RedisOther,
    MysqlOther,
    KafkaOther,
}

/// The text about a MySQL that answers reads while commits hang: usually, it waits for free space
/// for its binary log, and returns no error ([`Db::commits_hang`](crate::mysql::Db::commits_hang)).
pub const COMMITS_HANG: &str = "no commit ends (waiting for handler commit)";

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalFacts {
    pub store: FailureCause,
    /// The codes of the store or of its client by which the refusal is recognized: the first word
    /// of a reply of Redis, the name of an error of Kafka.
    codes: &'static [&'static str],
    /// Parts of messages for the rest: MySQL's errors have numbers, but diesel-async passes on only
    /// the message (`lc_messages` makes it English); Redis answers some refusals with plain `ERR`.
    texts: &'static [&'static str],
    /// The first sentence of its mail, without a full stop.
    pub says: &'static str,
    /// What an operator does.
    pub to_do: &'static str,
    /// The command that shows or removes the cause, and what it does.
    pub command: [&'static str; 2],
}

impl StoreRefusal {
    /// Returns the texts about a refusal, and how it is recognized.
    #[allow(clippy::too_many_lines, reason = "one table")]
    pub const fn facts(self) -> RefusalFacts {
        use FailureCause::{Kafka, Mysql, Redis};
        match self {
            Self::RedisDisk => RefusalFacts {
                store: Redis,
                codes: &["MISCONF"],
                texts: &[],
                says: "Redis refuses writes: it cannot write to its disk (MISCONF)",
                to_do: "Its disk is full or read-only, or it could not fork: remove that. Redis \
                    then goes on by itself. If only snapshots fail, an append-only file replaces \
                    them: stop them (also in redis.conf).",
                command: [
                    r#"redis-cli -u "${REDIS_URL%%,*}" CONFIG GET dir"#,
                    "The folder (an ACL user needs +config); see its disk with df -h. Without \
                        snapshots: CONFIG SET save ''",
                ],
            },
            Self::RedisMemory => RefusalFacts {
                store: Redis,
                codes: &["OOM"],
                texts: &[],
                says: "Redis refuses writes: its memory is full (maxmemory, OOM)",
                to_do: "Raise maxmemory (also in redis.conf), or delete what is not Firstcome's.",
                command: [
                    r#"redis-cli -u "${REDIS_URL%%,*}" CONFIG SET maxmemory 4gb"#,
                    "Raise it, here to 4 GB (an ACL user needs +config)",
                ],
            },
            Self::RedisReplica => RefusalFacts {
                store: Redis,
                codes: &["READONLY", "ReadOnly"],
                texts: &["points to a replica"],
                says: "Redis refuses writes: REDIS_URL leads to a replica (READONLY)",
                to_do: "Point REDIS_URL, or the address in it, to the master. If no other server \
                    is master, promote this one.",
                command: [
                    r#"redis-cli -u "${REDIS_URL%%,*}" INFO replication"#,
                    "Which server it follows",
                ],
            },
            Self::RedisLogin => RefusalFacts {
                store: Redis,
                codes: &["NOAUTH", "WRONGPASS", "NOPERM", "NoPerm"],
                texts: &["ACL failure"],
                says: "Redis refuses this login, or a command of it (NOAUTH, WRONGPASS, NOPERM)",
                to_do: "Correct user and password in REDIS_URL, or the rights of that user.",
                command: [
                    r#"redis-cli -u "${REDIS_URL%%,*}" ACL LOG 5"#,
                    "What was refused, and to whom (an ACL user needs +acl)",
                ],
            },
            Self::MysqlDisk => RefusalFacts {
                store: Mysql,
                codes: &[],
                texts: &[
                    "' is full",
                    "No space left on device",
                    "Disk full",
                    "Waiting for disk space",
                ],
                says: "MySQL refuses writes: its disk is full",
                to_do: "Free its disk. Everything then continues by itself.",
                command: ["df -h /var/lib/mysql", "On its host: the disk of its data"],
            },
            Self::MysqlCommits => RefusalFacts {
                store: Mysql,
                codes: &[],
                texts: &[COMMITS_HANG],
                says: "MySQL answers, but ends no write: the disk of its binary log is full or \
                    does not respond",
                to_do: "Free that disk: MySQL tries again within a minute, and its error log says \
                    whether the disk is full. Everything then continues by itself.",
                command: ["df -h /var/lib/mysql", "On its host: the disk of its data"],
            },
            Self::MysqlReadOnly => RefusalFacts {
                store: Mysql,
                codes: &[],
                texts: &["read-only option", "read_only", "is read-only"],
                says: "MySQL refuses writes: it is read-only (read_only or super_read_only)",
                to_do: "Point DATABASE_URL, or the address in it, to the primary. If this is the \
                    primary, let it take writes.",
                command: [
                    "mysql -e 'SET GLOBAL read_only = OFF'",
                    "If it is the primary, as an administrator of MySQL (mysql reads ~/.my.cnf)",
                ],
            },
            Self::MysqlLogin => RefusalFacts {
                store: Mysql,
                codes: &[],
                texts: &[
                    "Access denied",
                    "command denied",
                    "does not let this process in",
                ],
                says: "MySQL refuses this login, or a statement of it (access denied)",
                to_do: "Correct user and password in DATABASE_URL, or the rights of that user, \
                    and restart the processes that have the old ones.",
                command: [
                    "mysql -e 'SELECT user, host FROM mysql.user'",
                    "Who may log in, as an administrator of MySQL (mysql reads ~/.my.cnf)",
                ],
            },
            Self::RedisOther => RefusalFacts {
                store: Redis,
                codes: &[
                    "NOREPLICAS",
                    "LOADING",
                    "BusyLoading",
                    "MASTERDOWN",
                    "MasterDown",
                    "BUSY",
                    "CLUSTERDOWN",
                    "ClusterDown",
                ],
                texts: &["max number of clients"],
                says: "Redis refuses commands or connections",
                to_do: "Remove what its words name. Each coupon opens by itself once it is \
                    verified.",
                command: [
                    r#"redis-cli -u "${REDIS_URL%%,*}" INFO"#,
                    "What it says about its clients, replicas and persistence",
                ],
            },
            Self::MysqlOther => RefusalFacts {
                store: Mysql,
                codes: &[],
                texts: &["Too many connections", "max_user_connections"],
                says: "MySQL refuses writes or connections",
                to_do: "Remove what its words name. Everything then continues by itself.",
                command: [
                    "mysql -e 'SHOW PROCESSLIST'",
                    "Who is connected, as an administrator of MySQL (mysql reads ~/.my.cnf)",
                ],
            },
            Self::KafkaOther => RefusalFacts {
                store: Kafka,
                codes: &[
                    "NOT_ENOUGH_REPLICAS",
                    "NotEnoughReplicas",
                    "NotEnoughReplicasAfterAppend",
                    "KafkaStorageError",
                    "TopicAuthorizationFailed",
                    "ClusterAuthorizationFailed",
                    "InvalidTimestamp",
                ],
                texts: &[],
                says: "Kafka refuses messages",
                to_do: "Remove what its words name: a broker that is away, a full disk, a missing \
                    right, a wrong clock. Claims are written to MySQL meanwhile.",
                command: [
                    "kafka-topics.sh --bootstrap-server localhost:9092 --describe",
                    "On a broker: the leaders and replicas of each topic",
                ],
            },
        }
    }

    /// Recognizes the refusal in an error of a store. Returns `None` if the store does not answer,
    /// or reports something else.
    pub fn from_error(store: FailureCause, error: &str) -> Option<Self> {
        let words: Vec<&str> = error
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        let mut all = Self::VARIANTS.iter().copied();
        all.find(|refusal| {
            let facts = refusal.facts();
            let has_code = facts.codes.iter().any(|code| words.contains(code));
            facts.store == store
                && (has_code || facts.texts.iter().any(|text| error.contains(text)))
        })
    }

    /// Returns the sentence, what to do, and the command, for one line.
    pub fn sentence(self) -> String {
        let facts = self.facts();
        format!("{}. {} `{}`", facts.says, facts.to_do, facts.command[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are those of Redis 7.0, MySQL 9.7 and librdkafka 2.12.
    #[test]
    fn refusals_of_stores_are_recognized_by_their_codes_or_texts() {
        use FailureCause::{Kafka, Mysql, Redis};
        use StoreRefusal as Is;
        for (store, text, refusal) in [
            (
                Redis,
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
                Is::RedisDisk,
            ),
            (
                Redis,
                "MISCONF Errors writing to the AOF file: No space left on device",
                Is::RedisDisk,
            ),
            (
                Redis,
                "OOM command not allowed when used memory > 'maxmemory'.",
                Is::RedisMemory,
            ),
            (
                Redis,
                "ReadOnly: You can't write against a read only replica.",
                Is::RedisReplica,
            ),
            (
                Redis,
                "NOREPLICAS Not enough good replicas to write.",
                Is::RedisOther,
            ),
            (
                Redis,
                "LOADING Redis is loading the dataset in memory",
                Is::RedisOther,
            ),
            (
                Redis,
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL",
                Is::RedisOther,
            ),
            (Redis, "ERR max number of clients reached", Is::RedisOther),
            (
                Mysql,
                "MySQL: write rows: The table 'issued_coupons' is full",
                Is::MysqlDisk,
            ),
            (
                Mysql,
                "ERROR 28000 (1045): Access denied for user 'firstcome'@'10.0.0.7'",
                Is::MysqlLogin,
            ),
            (Mysql, COMMITS_HANG, Is::MysqlCommits),
            (
                Mysql,
                "The MySQL server is running with the --super-read-only option",
                Is::MysqlReadOnly,
            ),
            (
                Mysql,
                "The MySQL server is running with the --read-only option",
                Is::MysqlReadOnly,
            ),
            (
                Mysql,
                "MySQL: ping: this server is read-only; DATABASE_URL must lead",
                Is::MysqlReadOnly,
            ),
            (
                Mysql,
                "ERROR 08004 (1040): Too many connections",
                Is::MysqlOther,
            ),
            (
                Kafka,
                "Message production error: NotEnoughReplicas (Broker: Not enough in-sync replicas)",
                Is::KafkaOther,
            ),
            (
                Kafka,
                "KafkaStorageError (Broker: Disk error when trying to access log file on disk)",
                Is::KafkaOther,
            ),
            (
                Kafka,
                "TopicAuthorizationFailed (Broker: Topic authorization failed)",
                Is::KafkaOther,
            ),
            (
                Kafka,
                "Message production error: InvalidTimestamp (Broker: Invalid timestamp)",
                Is::KafkaOther,
            ),
        ] {
            assert_eq!(
                StoreRefusal::from_error(store, text),
                Some(refusal),
                "{text}"
            );
        }
    }

    #[test]
    fn code_of_redis_is_enough_and_an_outage_is_no_refusal() {
        for (text, refusal) in [
            ("OOM the memory is used up", Some(StoreRefusal::RedisMemory)),
            ("Connection refused (os error 111)", None),
        ] {
            let found = StoreRefusal::from_error(FailureCause::Redis, text);
            assert_eq!(found, refusal, "{text}");
        }
    }

    /// Without an address, `redis-cli` changes a Redis on the operator's own machine.
    #[test]
    fn commands_of_refusals_reach_the_store_that_refuses() {
        for refusal in StoreRefusal::VARIANTS {
            let RefusalFacts { to_do, command, .. } = refusal.facts();
            assert!(to_do.ends_with('.'), "{refusal:?}");
            let [command, what] = command;
            let reaches = match command.split(' ').next() {
                Some("redis-cli") => command.starts_with(r#"redis-cli -u "${REDIS_URL%%,*}" "#),
                Some("mysql") => what.contains("as an administrator of MySQL"),
                _ => what.starts_with("On its host") || what.starts_with("On a broker"),
            };
            assert!(reaches, "{refusal:?}: {what}: {command}");
        }
    }
}
