//! Finds the client's address behind proxies that append to `X-Forwarded-For`. Each proxy appends
//! the address of its client, so only the last entries are reliable, one per trusted proxy. The
//! client controls everything to their left.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

/// Returns the client as seen by the outermost of the `trusted` proxies, or the peer of the
/// connection if there is none.
pub fn client(peer: Option<IpAddr>, headers: &HeaderMap, trusted: u8) -> Option<IpAddr> {
    let Some(hop) = usize::from(trusted).checked_sub(1) else {
        return peer;
    };
    let values = headers.get_all("x-forwarded-for").iter();
    // Join all headers into one list, in order of arrival.
    let entries: Vec<&[u8]> = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    let entry = entries.iter().rev().nth(hop);
    entry
        .and_then(|entry| address(std::str::from_utf8(entry).ok()?.trim()))
        .or(peer)
}

/// Parses an address, optionally with a port or in brackets, as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse()
        .ok()
        .or_else(|| {
            text.parse()
                .ok()
                .map(|with_port: SocketAddr| with_port.ip())
        })
        .or_else(bare)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn seen(trusted: u8, values: &[&'static str]) -> String {
        let header = |value: &&'static str| {
            (
                "x-forwarded-for".parse().unwrap(),
                HeaderValue::from_static(value),
            )
        };
        let headers: HeaderMap = values.iter().map(header).collect();
        client("10.0.0.1".parse().ok(), &headers, trusted)
            .unwrap()
            .to_string()
    }

    #[test]
    fn client_address_is_the_one_that_the_outermost_trusted_proxy_appended() {
        let peer = "10.0.0.1";
        for (trusted, values, address) in [
            // Without trusted proxies, the client controls the header.
            (0, &["203.0.113.9"][..], peer),
            (1, &[], peer),
            (1, &["203.0.113.9"], "203.0.113.9"),
            // Forged entries are on the left: the proxy appended the real one.
            (1, &["127.0.0.1, 198.51.100.1, 203.0.113.9"], "203.0.113.9"),
            (1, &["127.0.0.1", "203.0.113.9"], "203.0.113.9"),
            (2, &["127.0.0.1, 203.0.113.9, 192.0.2.7"], "203.0.113.9"),
            (2, &["127.0.0.1,203.0.113.9", "192.0.2.7"], "203.0.113.9"),
            // The request bypassed one of the proxies, so the header is unreliable.
            (2, &["203.0.113.9"], peer),
            (1, &["unknown"], peer),
            (1, &["203.0.113.9, "], peer),
            (1, &["203.0.113.9:4711"], "203.0.113.9"),
            (1, &["2001:db8::7"], "2001:db8::7"),
            (1, &["[2001:db8::7]:4711"], "2001:db8::7"),
            (1, &["[2001:db8::7]"], "2001:db8::7"),
        ] {
            assert_eq!(seen(trusted, values), address, "{trusted} {values:?}");
        }
    }
}
