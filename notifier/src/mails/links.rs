//! Links and commands of mails.

use std::net::IpAddr;

use firstcome_shared::domain::{CouponId, DropId};
use url::Url;

use super::letter::Block;

const JSON: &str = "-H \"Content-Type: application/json\"";

/// Addresses for the links in mails, without a trailing slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The reconciler's public address.
    pub public: Option<String>,
    /// The API's public address.
    pub api: Option<String>,
}

impl Links {
    /// Returns the public address of the coupon page.
    pub fn coupon_page(&self, coupon: CouponId) -> String {
        format!("{}/c/{coupon}", self.api().trim_end_matches('/'))
    }

    fn reconciler(&self) -> &str {
        self.public.as_deref().unwrap_or("http://127.0.0.1:8081")
    }

    fn api(&self) -> &str {
        self.api.as_deref().unwrap_or("http://127.0.0.1:8080")
    }

    /// Returns the addresses that lead to the reader's own machine, with their settings.
    pub(crate) fn dead(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("PUBLIC_URL", self.reconciler()),
            ("API_PUBLIC_URL", self.api()),
        ];
        let host = |address| Url::parse(address).ok()?.host_str().map(is_local);
        all.into_iter()
            .filter(move |(_, address)| host(address).unwrap_or(false))
    }

    /// Returns the address of a screen of the operations page, if it is known. The operator logs in
    /// there once.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        self.public.as_ref().map(|public| format!("{public}{path}"))
    }

    pub(super) fn on_page(&self, label: &str, path: &str) -> Option<Block> {
        let label = format!("{label}, in a browser");
        self.page(path).map(|url| Block::Link { label, url })
    }

    /// Returns the path of an alert, which stays valid when it is over.
    pub(crate) fn alert(id: i64) -> String {
        format!("/alerts/{id}#alert-{id}")
    }

    pub(super) fn drop(coupon: CouponId, drop: DropId) -> String {
        format!("/coupons/{coupon}/drops/{drop}")
    }

    /// Returns a link, and a command that shows the same.
    pub(super) fn shown(&self, what: &str, path: &str, api: &str) -> Vec<Block> {
        let url = format!("{}/v1/{api}", self.reconciler());
        let link = self.on_page(what, path);
        link.into_iter().chain([curl(what, &[], &url)]).collect()
    }

    pub(super) fn firing(&self) -> Vec<Block> {
        self.shown("All open problems", "/alerts", "alerts?status=firing")
    }

    pub(super) fn runs(&self) -> Vec<Block> {
        self.shown("The last runs", "/runs", "runs?limit=20")
    }

    /// Returns a command that changes a coupon.
    pub(super) fn change(&self, what: &str, coupon: CouponId, body: &str) -> Block {
        let url = format!("{}/v1/coupons/{coupon}", self.api());
        curl(what, &[JSON, &format!("-X PATCH -d '{body}'")], &url)
    }

    /// Returns a command that acknowledges an alert.
    pub(super) fn acknowledge(&self, alert: i64) -> Block {
        let what = "Acknowledge: no more mails come until the alert changes";
        let url = format!("{}/v1/alerts/{alert}/acknowledge", self.reconciler());
        curl(what, &[JSON, r#"-d "{\"by\":\"$USER\"}""#], &url)
    }
}

/// Refers to a section of docs/OPERATIONS.md.
pub(super) fn section(word: &str) -> Block {
    Block::Paragraph(format!("More: docs/OPERATIONS.md, section “{word}”."))
}

/// Returns a command that runs a pass over one coupon or over all.
pub(super) fn once(what: &str, coupon: Option<CouponId>, flags: &str) -> Block {
    let coupon = coupon.map(|id| format!(" --coupon {id}"));
    let coupon = coupon.unwrap_or_default();
    Block::Command {
        what: what.to_owned(),
        line: format!("firstcome-reconciler once{coupon}{flags}"),
    }
}

/// Formats a command with one argument per line, so that a phone does not break it. The shell reads
/// it as one command. The URL is quoted, because some shells treat `?` as a pattern.
fn curl(what: &str, arguments: &[&str], url: &str) -> Block {
    let url = format!("\"{url}\"");
    let head = "curl -H \"Authorization: Bearer $OPS_TOKEN\"";
    let parts = [&[head], arguments, &[&url]].concat();
    Block::Command {
        what: what.to_owned(),
        line: parts.join(" \\\n"),
    }
}

/// Whether a host is the loopback address or an address that is only valid for listening.
pub(crate) fn is_local(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    ip.map_or(name == "localhost" || name.ends_with(".localhost"), |ip| {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_readers_machine_are_reported_with_their_setting() {
        let dead = |public: Option<&str>, api: &str| {
            let links = Links {
                public: public.map(str::to_owned),
                api: Some(api.to_owned()),
            };
            links.dead().map(|(setting, _)| setting).collect::<Vec<_>>()
        };
        let ops = Some("https://ops.example.com");
        assert_eq!(
            dead(None, "http://10.0.0.7:8080"),
            ["PUBLIC_URL"],
            "the default"
        );
        assert!(dead(ops, "http://localhost.example.com:8080").is_empty());
        for address in [
            "http://127.8.0.1",
            "http://LOCALHOST.",
            "http://firstcome.localhost",
            "http://0.0.0.0:8081",
            "http://[::1]:8081",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert_eq!(dead(ops, address), ["API_PUBLIC_URL"], "{address}");
        }
    }
}
