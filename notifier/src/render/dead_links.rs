//! Finds addresses in mails that lead to the reader's own machine.

use std::net::IpAddr;

use url::Url;

use super::letter::Links;

/// An address that is unusable in mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLink<'a> {
    pub setting: &'static str,
    pub address: &'a str,
    /// The intended destination.
    pub of: &'static str,
}

impl Links {
    /// Returns the addresses that lead to the reader's own machine.
    pub fn dead(&self) -> impl Iterator<Item = DeadLink<'_>> {
        let all = [
            DeadLink {
                setting: "PUBLIC_URL",
                address: self.reconciler(),
                of: "this reconciler",
            },
            DeadLink {
                setting: "API_PUBLIC_URL",
                address: self.api(),
                of: "the API",
            },
        ];
        let host = |address| Url::parse(address).ok()?.host_str().map(is_local);
        all.into_iter()
            .filter(move |link| host(link.address).unwrap_or(false))
    }
}

/// Whether a host is the loopback address or an address that is only valid for listening.
pub fn is_local(host: &str) -> bool {
    let ip = host
        .trim_matches(['[', ']'])
        .parse::<IpAddr>()
        .map(|ip| ip.to_canonical());
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    ip.map_or(name == "localhost" || name.ends_with(".localhost"), |ip| {
        ip.is_loopback() || ip.is_unspecified()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_readers_machine_are_reported_with_their_setting() {
        let with = |public: &str, api: &str| {
            let set = |url: &str| (!url.is_empty()).then(|| url.to_owned());
            Links {
                public: set(public),
                api: set(api),
                page_changes_coupons: true,
            }
        };
        let settings = |links: &Links| links.dead().map(|link| link.setting).collect::<Vec<_>>();
        assert_eq!(
            settings(&with("", "")),
            ["PUBLIC_URL", "API_PUBLIC_URL"],
            "the defaults are loopback"
        );
        assert!(settings(&with("https://ops.example.com", "http://10.0.0.7:8080")).is_empty());
        for address in [
            "http://127.0.0.1:8081",
            "http://127.8.0.1",
            "http://localhost:8081/x",
            "http://LOCALHOST.",
            "http://firstcome.localhost",
            "http://0.0.0.0:8081",
            "http://[::1]:8081",
            "http://[::]:8081",
            "http://[::ffff:127.0.0.1]",
        ] {
            let links = with("https://ops.example.com", address);
            let named: Vec<_> = links
                .dead()
                .map(|link| (link.setting, link.address))
                .collect();
            assert_eq!(named, [("API_PUBLIC_URL", address)]);
        }
        assert!(
            is_local("localhost")
                && !is_local("smtp.example.com")
                && !is_local("localhost.example.com")
        );
    }
}
