//! The settings of `serve`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use firstcome_shared::config::{
    KafkaArgs, MysqlArgs, PublishArgs, RedisArgs, StartArgs, listen_address,
};
use firstcome_shared::http::Limits;
use secrecy::SecretString;

use super::auth::{IdentityArgs, UserAuth};

/// Whether people get a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CouponPage {
    Off,
    On,
}

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
    /// How often coupons and drops are read from MySQL, in milliseconds: what another process made
    /// or changed is seen here after that time at the latest
    #[arg(long, env = "CATALOGUE_REFRESH_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=60_000), help_heading = "MySQL")]
    pub catalogue_refresh_ms: u64,
}

/// Where `serve` listens unless `LISTEN_ADDR` says otherwise.
pub(crate) const LISTEN_ADDR: &str = "127.0.0.1:8080";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct HttpArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// Token for operators' routes, at least 32 printable ASCII characters; two by a comma while it
    /// is being replaced
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    pub ops_token: SecretString,
    /// Token that reads what operators see and changes nothing; not set: there is none
    #[arg(long, env = "OPS_VIEW_TOKEN", hide_env_values = true)]
    pub ops_view_token: Option<SecretString>,
    /// How many proxies in front are trusted: the address that is recorded of who asks is taken so
    /// many entries from the right of `X-Forwarded-For`; 0: that of the connection
    #[arg(long, env = "OPS_TRUSTED_PROXIES", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=10))]
    pub ops_trusted_proxies: u8,
    /// Most connections at a time; if all are open, a new one takes the place of the one that has
    /// been idle longest, or waits until a request ends
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Most connections of one address (of IPv6: one network of 64 bits) at a time; a new one
    /// takes the place of an idle one of the same address, or is closed. 0: no limit. Not set: half
    /// of MAX_CONNECTIONS, at least 2,048; no limit if USER_AUTH=trusted-header or
    /// OPS_TRUSTED_PROXIES says that connections come from proxies
    #[arg(long, env = "MAX_CONNECTIONS_PER_ADDRESS")]
    pub max_connections_per_address: Option<u32>,
    /// Requests a second that one person may send, and a second's worth at once; more are answered
    /// 429. 0: no limit
    #[arg(long, env = "PERSON_RATE_LIMIT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub person_rate_limit: u32,
    /// The same for one address (of IPv6: one network of 64 bits), as OPS_TRUSTED_PROXIES says
    /// where requests come from
    #[arg(long, env = "ADDRESS_RATE_LIMIT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub address_rate_limit: u32,
    /// Another address, at which alone `/metrics` and `/openapi.json` are answered; not set: at
    /// LISTEN_ADDR, to everybody
    #[arg(long, env = "METRICS_ADDR", value_parser = listen_address)]
    pub metrics_addr: Option<SocketAddr>,
    /// Longest time for the head of a request, also between two requests of one connection, in
    /// milliseconds
    #[arg(long, env = "HEADER_READ_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub header_read_timeout_ms: u64,
    /// Longest time for a request's answer, its body included, in milliseconds; then 503. A claim
    /// goes on to its end
    #[arg(long, env = "REQUEST_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub request_timeout_ms: u64,
    /// Time from the signal to stop to the closing of the listener, in milliseconds: `/readyz` says
    /// 503 meanwhile, and a balancer sends no more requests
    #[arg(long, env = "SHUTDOWN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub shutdown_delay_ms: u64,
    /// Longest wait of a question about a claim (`claims/me`, a claim on a finished coupon) for
    /// MySQL, in milliseconds; it is answered by what Redis knows then, else 503
    #[arg(long, env = "QUESTION_TIMEOUT_MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub question_timeout_ms: u64,
    /// Most claims worked on at a time; more are answered 503 at once
    #[arg(long, env = "MAX_CLAIMS_IN_HAND", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_claims_in_hand: u32,
    /// Whether people get a page at `/c/{id}`, on which they see a coupon and claim it
    #[arg(long, env = "COUPON_PAGE", value_enum, default_value = "off")]
    pub coupon_page: CouponPage,
}

/// A proxy in front that is not set as trusted, or the NAT of a company, has no more connections to
/// one process: proxies keep at most some hundred to a server by default.
const ADDRESS_AT_LEAST: u32 = 2_048;

impl ServeArgs {
    pub(crate) fn limits(&self) -> Limits {
        let http = &self.http;
        let is_behind_proxies =
            self.identity.user_auth == UserAuth::TrustedHeader || http.ops_trusted_proxies > 0;
        let share = if is_behind_proxies {
            0
        } else {
            (http.max_connections / 2).max(ADDRESS_AT_LEAST)
        };
        let of_address = http.max_connections_per_address.unwrap_or(share);
        Limits {
            connections: usize::try_from(http.max_connections).unwrap_or(usize::MAX),
            connections_of_address: usize::try_from(of_address).ok().filter(|most| *most > 0),
            header_read: Duration::from_millis(http.header_read_timeout_ms),
            ..Limits::DEFAULT
        }
    }
}

impl HttpArgs {
    pub(crate) fn shutdown_delay(&self) -> Duration {
        Duration::from_millis(self.shutdown_delay_ms)
    }

    pub(crate) fn question_timeout(&self) -> Duration {
        Duration::from_millis(self.question_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
