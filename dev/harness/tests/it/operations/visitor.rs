//! An HTTP client that visits the operations page without a browser.

use firstcome_harness::{ReconcilerClient, Running};
use reqwest::header::{CONTENT_TYPE, COOKIE, ORIGIN};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};

pub(super) const VIEW_TOKEN: &str = "only-looks-0123456789abcdef0123456789abc";

/// An HTTP client that sends the session's cookie and submits forms, as a browser does.
pub(super) struct Visitor {
    client: Client,
    pub(super) base: String,
    cookie: String,
}

/// The response to a submitted form.
pub(super) struct FormReply {
    pub(super) status: u16,
    /// The target of the redirect. Empty if the response is no redirect.
    pub(super) location: String,
    pub(super) text: String,
}

impl FormReply {
    pub(super) async fn of(answer: Response) -> Self {
        Self {
            status: answer.status().as_u16(),
            location: header(&answer, "location").to_owned(),
            text: answer.text().await.unwrap(),
        }
    }
}

impl Visitor {
    pub(super) fn at(daemon: &Running<ReconcilerClient>) -> Self {
        // Opens a new connection for each request, so that each request reaches the current
        // process.
        let client = Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap();
        Self {
            client,
            base: daemon.http().base().to_owned(),
            cookie: String::new(),
        }
    }

    pub(super) async fn logged_in(
        daemon: &Running<ReconcilerClient>,
        name: &str,
        token: &str,
    ) -> Self {
        let mut visitor = Self::at(daemon);
        let answer = visitor.log_in(name, token, "/").await;
        let status = answer.status().as_u16();
        assert_eq!((status, header(&answer, "location")), (303, "/"));
        let cookie = header(&answer, "set-cookie");
        assert_has(cookie, &["; HttpOnly; SameSite=Strict"]);
        assert_lacks(cookie, &["Secure"]);
        let pair = cookie.split(';').next().unwrap();
        pair.clone_into(&mut visitor.cookie);
        visitor
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.base);
        let request = self.client.request(method, url);
        request.header(COOKIE, &self.cookie)
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(super) async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    pub(super) async fn log_in(&self, name: &str, token: &str, next: &str) -> Response {
        let request = self.request(Method::POST, "/login");
        let form = [("name", name), ("token", token), ("next", next)];
        let request = filled_in(request.header(ORIGIN, &self.base), &form);
        request.send().await.unwrap()
    }

    /// Submits a form, from the page itself.
    pub(super) async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> FormReply {
        let request = self.request(Method::POST, path).header(ORIGIN, &self.base);
        FormReply::of(filled_in(request, fields).send().await.unwrap()).await
    }

    /// Submits an empty form from a page of this origin.
    pub(super) async fn post(&self, path: &str, origin: &str) -> u16 {
        let request = self.request(Method::POST, path).header(ORIGIN, origin);
        let answer = filled_in(request, &[]).send().await.unwrap();
        answer.status().as_u16()
    }
}

/// Adds a form to a request, with every byte of the values percent-encoded.
pub(super) fn filled_in(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
        .collect();
    request
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(pairs.join("&"))
}

fn percent_encoded(text: &str) -> String {
    // Each byte is formatted only once, because a form may have millions of bytes.
    let encoded: Vec<String> = (0..=u8::MAX).map(|byte| format!("%{byte:02X}")).collect();
    let bytes = text.bytes().map(|byte| encoded[usize::from(byte)].as_str());
    bytes.collect()
}

pub(super) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Returns the value of the first field with this name.
pub(super) fn field<'p>(page: &'p str, name: &str) -> &'p str {
    page.split(&format!("name=\"{name}\" value=\""))
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap()
}

/// Fails unless the page contains all these texts.
#[track_caller]
pub(super) fn assert_has(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text} is not in {page}");
    }
}

/// Fails if the page contains any of these texts.
#[track_caller]
pub(super) fn assert_lacks(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(!page.contains(text), "{text} is in {page}");
    }
}
