//! Who is logged in: random cookies, kept in memory, bounded in number and in time. They end with
//! the process.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use firstcome_shared::http::ops::Allowed;
use firstcome_shared::mysql::ops_actions::Operator;
use parking_lot::Mutex;

/// However much it is used, a session ends after so long.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// Most sessions; one more ends the oldest, a viewer's first.
const AT_MOST: usize = 256;

/// The cookie's name. With the prefix a browser takes it over https only, and from no other host.
const NAME: &str = "firstcome-ops";
const SECURE_NAME: &str = "__Host-firstcome-ops";

/// One log-in.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) operator: Operator,
    pub(super) allowed: Allowed,
    /// What each form of the page sends back.
    pub(super) csrf: String,
    ends: Instant,
}

impl Session {
    pub(super) fn name(&self) -> &str {
        self.operator.name.as_deref().unwrap_or_default()
    }

    pub(super) fn may_change(&self) -> bool {
        self.allowed == Allowed::All
    }
}

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Begins a session; gives the value of its cookie.
    pub(super) fn begin(&self, operator: Operator, allowed: Allowed, now: Instant) -> String {
        let session = Session { operator, allowed, csrf: random(), ends: now + LIFETIME };
        let mut sessions = self.0.lock();
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= AT_MOST {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, session)| (session.may_change(), session.ends))
                .map(|(id, _)| id.clone());
            oldest.and_then(|id| sessions.remove(&id));
        }
        let id = random();
        sessions.insert(id.clone(), Arc::new(session));
        id
    }

    /// The session that a request belongs to.
    pub(super) fn of(&self, headers: &HeaderMap, now: Instant) -> Option<Arc<Session>> {
        let sessions = self.0.lock();
        ids(headers).find_map(|id| sessions.get(id)).filter(|session| session.ends > now).cloned()
    }

    /// Ends the session that a request belongs to.
    pub(super) fn end(&self, headers: &HeaderMap) {
        let mut sessions = self.0.lock();
        for id in ids(headers) {
            sessions.remove(id);
        }
    }
}

/// 256 bits from the operating system's generator.
fn random() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(name, _)| [NAME, SECURE_NAME].contains(name)).map(|(_, id)| id)
}

/// `Set-Cookie` for a session; with an empty id, the end of one.
pub(super) fn cookie(id: &str, is_https: bool) -> String {
    let (name, secure) = if is_https { (SECURE_NAME, "; Secure") } else { (NAME, "") };
    let age = if id.is_empty() { 0 } else { LIFETIME.as_secs() };
    format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

/// Wrong tokens that one address may send within [`WINDOW`].
const WRONG_AT_MOST: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// Most addresses remembered; one more makes the oldest forgotten.
const ADDRESSES_AT_MOST: usize = 1_024;

/// Wrong log-ins by address: when the first of a minute came, and how many.
#[derive(Default)]
pub(super) struct Tries(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Tries {
    /// For how long this address may not try again.
    pub(super) fn wait(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let (first, wrong) = self.0.lock().get(&network(from)).copied()?;
        (wrong >= WRONG_AT_MOST).then(|| (first + WINDOW).saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    pub(super) fn wrong(&self, from: IpAddr, now: Instant) {
        let mut tries = self.0.lock();
        tries.retain(|_, (first, _)| *first + WINDOW > now);
        let from = network(from);
        if tries.len() >= ADDRESSES_AT_MOST && !tries.contains_key(&from) {
            let oldest = tries.iter().min_by_key(|(_, (first, _))| *first).map(|(address, _)| *address);
            oldest.and_then(|address| tries.remove(&address));
        }
        tries.entry(from).or_insert((now, 0)).1 += 1;
    }
}

/// Of IPv6 a customer has a /64 to choose from.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        short @ IpAddr::V4(_) => short,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with_cookie(value: &str) -> HeaderMap {
        [(COOKIE, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn a_session_ends_by_its_time_by_logging_out_and_by_too_many_others() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let begin = |at: u64| {
            let id = sessions.begin(Operator::default(), Allowed::View, now + Duration::from_secs(at));
            with_cookie(&format!("other=1; {NAME}={id}"))
        };
        let first = begin(0);
        assert!(sessions.of(&first, now).is_some_and(|session| !session.may_change()));
        assert!(sessions.of(&first, now + LIFETIME).is_none());
        assert!(sessions.of(&with_cookie(&format!("{NAME}=0; {SECURE_NAME}=")), now).is_none());
        let second = begin(1);
        sessions.end(&second);
        assert!(sessions.of(&second, now).is_none() && sessions.of(&first, now).is_some());
        let others: Vec<_> = (0..AT_MOST as u64).map(|n| begin(2 + n)).collect();
        assert!(sessions.of(&first, now).is_none(), "the oldest is gone");
        assert!(others.iter().all(|other| sessions.of(other, now).is_some()));
        assert_eq!(sessions.0.lock().len(), AT_MOST);
    }

    #[test]
    fn a_cookie_is_out_of_reach_for_scripts_and_other_sites_and_secure_over_https() {
        let [plain, secure] = [false, true].map(|is_https| cookie("1f", is_https));
        for cookie in [&plain, &secure] {
            assert!(cookie.contains("=1f; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200"), "{cookie}");
        }
        assert!(secure.starts_with("__Host-") && secure.ends_with("; Secure") && !plain.contains("Secure"));
        assert!(cookie("", false).contains("Max-Age=0"));
    }

    #[test]
    fn wrong_tokens_are_bounded_by_address_and_the_addresses_too() {
        let (tries, now) = (Tries::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        for _ in 0..WRONG_AT_MOST {
            assert_eq!(tries.wait(address(7), now), None);
            tries.wrong(address(7), now);
        }
        assert_eq!(tries.wait(address(7), now), Some(WINDOW));
        assert_eq!((tries.wait(address(8), now), tries.wait(address(7), now + WINDOW)), (None, None));
        let [near, same, far]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|a| a.parse().unwrap());
        assert!(network(near) == network(same) && network(near) != network(far));
        assert_eq!(network("::ffff:10.0.0.7".parse().unwrap()), address(0x0a00_0007));
        for n in 0..2_000 {
            tries.wrong(address(1_000 + n), now + Duration::from_millis(1));
        }
        assert_eq!(tries.0.lock().len(), ADDRESSES_AT_MOST);
    }
}
