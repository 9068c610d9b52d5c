//! The settings of `serve`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use firstcome_shared::config::{
    KafkaArgs, MysqlArgs, PublishArgs, RedisArgs, StartArgs, listen_address,
};
use firstcome_shared::http::Limits;
use firstcome_shared::tuning::Tuning;
use secrecy::SecretString;

use super::auth::IdentityArgs;

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub http: HttpArgs,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    #[command(flatten)]
    pub publish: PublishArgs,
    #[command(flatten)]
    pub start: StartArgs,
    /// Pause between two reads of coupons and drops from MySQL. After it and the next read, changes
    /// by other processes are visible here.
    #[arg(skip = Tuning::CatalogueRefreshMs.or(1_000_u64))]
    pub catalogue_refresh_ms: u64,
}

/// The default `LISTEN_ADDR` of `serve`.
pub(crate) const LISTEN_ADDR: &str = "127.0.0.1:8080";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// Token for the operators' routes, at least 32 printable ASCII characters; two separated by a
    /// comma while you replace it
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    pub ops_token: SecretString,
    /// Token that can only read what operators see (default: none)
    #[arg(long, env = "OPS_VIEW_TOKEN", hide_env_values = true)]
    pub ops_view_token: Option<SecretString>,
    /// Token with which shops use codes and undo uses (default: none, so that no code can be used)
    #[arg(long, env = "REDEEM_TOKEN", hide_env_values = true)]
    pub redeem_token: Option<SecretString>,
    /// A second address, which alone then serves `/metrics` and `/openapi.json` (default:
    /// LISTEN_ADDR serves them to everybody)
    #[arg(long, env = "METRICS_ADDR", value_parser = listen_address)]
    pub metrics_addr: Option<SocketAddr>,
    /// Maximum time to receive the head of a request, including the idle time between two requests
    /// on one connection.
    #[arg(skip = Tuning::HeaderReadTimeoutMs.or(10_000_u64))]
    pub header_read_timeout_ms: u64,
    /// Maximum time from the head of a request until its response begins. If it is exceeded, the
    /// response is 503, but a claim still completes.
    #[arg(skip = Tuning::RequestTimeoutMs.or(15_000_u64))]
    pub request_timeout_ms: u64,
    /// Maximum time that the routes `claims/me` wait for one answer of MySQL. After this time, the
    /// response comes from Redis alone or is 503.
    #[arg(skip = Tuning::QuestionTimeoutMs.or(400_u64))]
    pub question_timeout_ms: u64,
    /// Maximum number of claims in progress. Additional claims get 503 immediately.
    #[arg(skip = Tuning::MaxClaimsInHand.or(20_000_u32))]
    pub max_claims_in_hand: u32,
    /// Whether claims are answered before the router; tests compare both.
    #[arg(skip = Tuning::HasFastPath.or(true))]
    pub has_fast_path: bool,
    /// `on`: each coupon has a page at `/c/{id}`, where users see and claim it
    #[arg(long, env = "COUPON_PAGE", default_value = "off", action = ArgAction::Set, hide_possible_values = true, value_parser = BoolishValueParser::new())]
    pub coupon_page: bool,
}

impl ServeArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            header_read: Duration::from_millis(self.http.header_read_timeout_ms),
            // A claim waits for an earlier call to Redis and for its own call, each for at most
            // twice the timeout, then for Kafka and the fallback.
            drain: self.publish.longest_in_flight()
                + 4 * self.mysql.store_timeout()
                + Duration::from_secs(1),
            ..Limits::DEFAULT
        }
    }
}
