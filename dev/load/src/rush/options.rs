//! The command line and its validation.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, value_parser};
use tokio::net::lookup_host;

use crate::client::Target;
use crate::identity::CrowdIdentityArgs;

/// Lets a crowd claim a coupon of a running Firstcome, and reports the answers.
///
/// By default a closed loop: each connection sends the next request as soon as it gets an answer.
/// With --rate an open loop: users arrive at a fixed rate, and their latency counts from their
/// arrival, so that stalls of the system show.
///
/// Exits with 0 if every user got a final answer, every answer was understood, no two answers
/// contradict each other, and, with --database-url, every promise has its row.
#[derive(Debug, Clone, Parser)]
#[command(name = "rush", version, max_term_width = 120)]
pub struct RushOptions {
    /// Address of an API, `http://host:port` or `https://host:port`; may be given several times to
    /// spread the crowd over several APIs
    #[arg(long, env = "API_URL", required = true, value_delimiter = ',')]
    pub url: Vec<Target>,
    /// Allow addresses of other machines, which the crowd then puts under load
    #[arg(long)]
    pub remote: bool,
    /// ID of the coupon to claim, which is really given away. By default a new one is created,
    /// which needs the ops token
    #[arg(long, env = "COUPON", value_parser = value_parser!(i64).range(1..))]
    pub coupon: Option<i64>,
    /// Ops token of the API, needed to create a coupon
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true)]
    pub ops_token: Option<String>,
    /// Quantity of the created coupon
    #[arg(long, env = "QUANTITY", default_value_t = 100, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub quantity: u32,
    /// Number of users
    #[arg(long, env = "PEOPLE", default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub people: u32,
    /// Requests per user: the second directly follows the first, as a double click
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=1_000))]
    pub requests_per_person: u32,
    /// Requests per second (open loop); by default, as fast as responses arrive (closed loop)
    #[arg(long, value_parser = rate, allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// Number of connections, which is also the number of concurrent requests
    #[arg(long, env = "CONNECTIONS", default_value_t = 256, value_parser = connections)]
    pub connections: usize,
    /// Seconds from the start during which users retry while the coupon is not open or the system
    /// is unavailable
    #[arg(long, default_value_t = 30, value_parser = value_parser!(u64).range(0..=86_400))]
    pub patience: u64,
    /// Database of the system, which is only read: reports the statements of the rush and whether
    /// every promise has its row
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Write the report as JSON to this file; without a file name, print it instead of the table
    #[arg(long, num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
    /// Authentication of the users.
    #[command(flatten)]
    pub identity: CrowdIdentityArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "requests per second, a number above 0")?;
    let possible = rate > 0.0 && rate <= 1e6;
    if possible {
        Ok(rate)
    } else {
        Err("requests per second, above 0 and at most 1,000,000".into())
    }
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(connections @ 1..=50_000) => Ok(connections),
        _ => Err("a number from 1 to 50,000".into()),
    }
}

impl RushOptions {
    /// Makes the checks that clap cannot do.
    pub(super) async fn check(&self) -> Result<()> {
        let may_make = self
            .ops_token
            .as_deref()
            .is_some_and(|token| !token.is_empty());
        ensure!(
            self.coupon.is_some() || may_make,
            "give --coupon, or the ops token (--ops-token, OPS_TOKEN) to create one; `make run` has both: set -a; . target/run/env"
        );
        for target in &self.url {
            let authority = target.authority();
            let mut found = lookup_host(authority)
                .await
                .with_context(|| format!("{target} is not known"))?;
            ensure!(
                self.remote || found.all(|address| address.ip().is_loopback()),
                "{target} is not this machine: a rush takes its capacity and its coupons; add --remote if that is meant"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 5] = ["rush", "--url", "http://127.0.0.1:1", "--coupon", "1"];

    fn parse(more: &[&str]) -> Result<RushOptions, String> {
        RushOptions::try_parse_from([&GOOD, more].concat()).map_err(|error| error.to_string())
    }

    #[test]
    fn refuses_invalid_options_with_a_reason() {
        for (args, words) in [
            (&["--people", "0"][..], "1..=10000000"),
            (&["--requests-per-person", "0"], "1..=1000"),
            (&["--rate", "0"], "above 0"),
            (&["--rate", "-3"], "above 0"),
            (&["--rate", "inf"], "at most"),
            (&["--rate", "many"], "a number"),
            (&["--connections", "0"], "from 1"),
            (&["--url", "ftp://api.example"], "http://host:port"),
            (&["--url", "http://127.0.0.1:1/v1"], "without a path"),
            (&["--user-auth", "cookie"], "trusted-header"),
            (&["--jwt-algorithm", "none"], "--jwt-algorithm"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(words), "{args:?}: {error}");
        }
    }

    #[tokio::test]
    async fn requires_the_ops_token_if_no_coupon_is_given() {
        let options = RushOptions::try_parse_from(["rush", "--url", "http://127.0.0.1:1"]).unwrap();
        let error = options.check().await.unwrap_err().to_string();
        assert!(
            error.contains("--coupon") && error.contains("OPS_TOKEN"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn refuses_remote_hosts_without_the_remote_option() {
        let at = |url: &str, more: &[&str]| {
            RushOptions::try_parse_from([&["rush", "--coupon", "1", "--url", url], more].concat())
                .unwrap()
        };
        let error = at("http://192.0.2.1:80", &[])
            .check()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("--remote"), "{error}");
        at("http://192.0.2.1:80", &["--remote"])
            .check()
            .await
            .unwrap();
        at("http://127.0.0.1:80", &[]).check().await.unwrap();
        at("http://localhost:80", &[]).check().await.unwrap();
    }

    #[test]
    fn json_option_writes_to_a_file_or_prints() {
        assert_eq!(parse(&["--json"]).unwrap().json, Some(PathBuf::from("-")));
        assert_eq!(
            parse(&["--json", "x.json"]).unwrap().json,
            Some(PathBuf::from("x.json"))
        );
        assert_eq!(parse(&[]).unwrap().json, None);
    }
}
