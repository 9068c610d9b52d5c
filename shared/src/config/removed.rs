//! Variables of earlier releases. If one is still set, it has no effect, and start-up logs a
//! warning.

/// The name, and its replacement.
const REMOVED: &[(&str, &str)] = &[
    ("ACCESS_LOG", "set RUST_LOG=info,firstcome::access=debug"),
    ("ADDRESS_RATE_LIMIT", IN_THE_PROXY),
    ("ALERTMANAGER_LABELS", PROMETHEUS),
    ("ALERTMANAGER_URL", PROMETHEUS),
    ("ALERTS_KEPT_SECONDS", RETENTION),
    ("ALERT_COOLDOWN_SECONDS", CONSTANT),
    ("ALERT_PATIENCE_SECONDS", CONSTANT),
    ("API_CA_FILE", AUTHORITIES),
    ("BACKUP_DEADLINE_MS", CONSTANT),
    ("CATALOGUE_REFRESH_MS", CONSTANT),
    ("CLEAN_RUNS_KEPT_SECONDS", RETENTION),
    ("CONSUMER_STALL_SECONDS", CONSTANT),
    (
        "CONSUME_BATCH_MAX",
        "the value is fixed; CONSUME_MAX_ROWS_PER_SECOND limits the load on MySQL",
    ),
    ("CONSUME_BATCH_WAIT_MS", CONSTANT),
    ("CONSUME_LISTEN_ADDR", "set LISTEN_ADDR for the consumer"),
    (
        "CONSUME_REBALANCE",
        "consumers always rebalance cooperatively",
    ),
    (
        "CONSUME_SESSION_TIMEOUT_MS",
        "set KAFKA_CONFIG_SESSION_TIMEOUT_MS",
    ),
    ("CONSUME_STUCK_SECONDS", CONSTANT),
    ("DATABASE_POOL_SIZE", CONSTANT),
    ("DATABASE_TIMEOUT_MS", TIMEOUT),
    ("DOCS_URL", "mails name the section of docs/OPERATIONS.md"),
    ("FAILED_CLAIMS_KEPT_SECONDS", RETENTION),
    ("HEADER_READ_TIMEOUT_MS", CONSTANT),
    ("JWT_JWKS_CA_FILE", AUTHORITIES),
    ("JWT_JWKS_REFRESH_SECONDS", CONSTANT),
    (
        "KAFKA_GROUP_INSTANCE_ID",
        "set KAFKA_CONFIG_GROUP_INSTANCE_ID",
    ),
    (
        "KAFKA_PARTITIONS",
        "give `firstcome-api migrate` --partitions",
    ),
    (
        "KAFKA_REPLICATION",
        "give `firstcome-api migrate` --replication",
    ),
    ("LOG_FORMAT", "logs are text with name=value fields"),
    ("MAILS_KEPT_SECONDS", RETENTION),
    ("MAX_CLAIMS_IN_HAND", CONSTANT),
    ("MAX_CONNECTIONS", CONSTANT),
    ("MAX_CONNECTIONS_PER_ADDRESS", CONSTANT),
    ("MENDED_PROMISES_KEPT_SECONDS", RETENTION),
    ("MISSED_AFTER_SECONDS", CONSTANT),
    ("OPERATOR", "give `firstcome-api coupon` --operator"),
    ("PEOPLE_KEPT_SECONDS", RETENTION),
    ("PERSON_RATE_LIMIT", IN_THE_PROXY),
    ("QUESTION_TIMEOUT_MS", CONSTANT),
    ("RECONCILE_BRAKE_AT_LEAST", CONSTANT),
    ("RECONCILE_BRAKE_PERCENT", CONSTANT),
    ("RECONCILE_OVERDUE_MS", CONSTANT),
    ("RECONCILE_PAGE_SLOTS", CONSTANT),
    ("REDIS_TIMEOUT_MS", TIMEOUT),
    ("REQUEST_TIMEOUT_MS", CONSTANT),
    ("RUNS_KEPT_SECONDS", RETENTION),
    ("SEALED_KEYS_TTL_SECONDS", CONSTANT),
    (
        "SHUTDOWN_DELAY_MS",
        "let the orchestrator wait before it stops the process (preStop in Kubernetes)",
    ),
    ("SMTP_CA_FILE", AUTHORITIES),
    ("SMTP_TIMEOUT_MS", CONSTANT),
    ("STARTUP_WAIT_SECONDS", CONSTANT),
    ("WEBHOOK_CA_FILE", AUTHORITIES),
    (
        "WEBHOOK_EVENTS",
        "receivers get every event and choose by its type",
    ),
    ("WEBHOOK_TIMEOUT_MS", CONSTANT),
];

const AUTHORITIES: &str = "set SSL_CERT_FILE";
const CONSTANT: &str = "the value is fixed";
const IN_THE_PROXY: &str = "limit requests in the proxy that ends TLS";
const PROMETHEUS: &str =
    "load deploy/prometheus/rules.yml into Prometheus, which feeds Alertmanager";
const RETENTION: &str = "set RETENTION_DAYS";
const TIMEOUT: &str = "set STORE_TIMEOUT_MS";

/// Logs one warning for each variable that has no effect.
pub(super) fn warn() {
    for (name, successor) in still_set(|name| std::env::var_os(name).is_some()) {
        tracing::warn!("{name} is set but no longer exists: {successor}");
    }
}

fn still_set(is_set: impl Fn(&str) -> bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    REMOVED
        .iter()
        .copied()
        .filter(move |(name, _)| is_set(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_names_removed_variable_and_its_successor() {
        let found: Vec<_> = still_set(|name| name == "REDIS_TIMEOUT_MS").collect();
        assert_eq!(found, [("REDIS_TIMEOUT_MS", "set STORE_TIMEOUT_MS")]);
        assert_eq!(still_set(|_| false).count(), 0);
    }
}
