//! A real browser: headless Chromium, controlled over WebDriver (W3C), which is JSON over HTTP.
//! docs/decisions/0016-pages.md explains why the tests do not use a library.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use firstcome_stack::{BrowserOptions, BrowserServer};
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

/// The server that starts the browsers for all tests of this binary. It ends with the process in
/// all cases.
static DRIVER: OnceCell<BrowserServer> = OnceCell::const_new();

/// Limits the number of concurrent browsers, because each runs half a dozen processes.
static TURNS: Semaphore = Semaphore::const_new(2);

/// Time limit of one command on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The size of the window, and the user's colour scheme.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            width: 1000,
            height: 760,
            dark: false,
        }
    }
}

impl Look {
    #[must_use]
    pub fn on_a_phone(self) -> Self {
        let (width, height) = (390, 844);
        Self {
            width,
            height,
            ..self
        }
    }
}

/// One browser with one tab. It is closed on drop.
pub struct Browser {
    client: reqwest::Client,
    driver: String,
    session: String,
    _turn: SemaphorePermit<'static>,
}

impl Browser {
    pub async fn open(look: Look) -> Self {
        let turn = TURNS
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let start = async || {
            BrowserServer::start(BrowserOptions {})
                .await
                .unwrap_or_else(|error| panic!("{error:#}"))
        };
        let driver = DRIVER.get_or_init(start).await.url();
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .build()
            .unwrap();
        let mut browser = Self {
            client,
            driver,
            session: String::new(),
            _turn: turn,
        };
        let args = [
            "--headless=new",
            // Tests run as root in containers with a small /dev/shm.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-proxy-server",
            // If the driver dies, the browser loses this pipe and exits.
            "--remote-debugging-pipe",
        ];
        let options = json!({"args": args, "prefs": {"intl.accept_languages": "en-US,en"}});
        let wanted = json!({
            "browserName": "chrome", "timeouts": {"script": PATIENCE.as_millis()}, "goog:loggingPrefs": {"browser": "ALL"}, "goog:chromeOptions": options,
        });
        let made = browser
            .command("", &json!({"capabilities": {"alwaysMatch": wanted}}))
            .await;
        browser.session = format!("/{}", made["sessionId"].as_str().expect("a session"));
        browser.look(look).await;
        browser
    }

    /// Sets the window size and the colour scheme. The time zone is always Asia/Seoul.
    pub async fn look(&self, look: Look) {
        let window = json!({"width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", &window)
            .await;
        let scheme = if look.dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.cdp("Emulation.setEmulatedMedia", &features).await;
        self.cdp(
            "Emulation.setTimezoneOverride",
            &json!({"timezoneId": "Asia/Seoul"}),
        )
        .await;
    }

    /// Loads an address. Returns when the page and its scripts are loaded.
    pub async fn visit(&self, url: &str) {
        // Visit a blank page first. Otherwise, another fragment of the same address would not
        // reload the page.
        self.command("/url", &json!({"url": "about:blank"})).await;
        self.command("/url", &json!({"url": url})).await;
    }

    pub async fn reload(&self) {
        self.command("/refresh", &json!({})).await;
    }

    pub async fn address(&self) -> String {
        let address = self.run("return location.href").await;
        address.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script in the page and returns its result. If the result is a promise, waits for it.
    pub async fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({"script": script, "args": []}))
            .await
    }

    /// Like [`Self::run`], but for a page that may navigate. Returns `None` if the driver reports
    /// an error, for example because the page was unloaded in the meantime.
    pub async fn try_run(&self, script: &str) -> Option<Value> {
        self.try_command("/execute/sync", &json!({"script": script, "args": []}))
            .await
            .ok()
    }

    /// Returns what the window shows, as a PNG in base64.
    pub async fn screenshot(&self) -> String {
        let shown = self.cdp("Page.captureScreenshot", &json!({})).await;
        shown["data"].as_str().expect("a picture").to_owned()
    }

    /// Clicks like a mouse. The test fails if the element is hidden or covered.
    pub async fn click(&self, css: &str) {
        let found = self
            .command("/element", &json!({"using": "css selector", "value": css}))
            .await;
        let id = found
            .as_object()
            .and_then(|found| found.values().next()?.as_str())
            .expect("an element");
        self.command(&format!("/element/{id}/click"), &json!({}))
            .await;
    }

    /// Presses a key, given as its WebDriver code: `\u{e004}` is Tab, `\u{e007}` is Enter.
    pub async fn key(&self, key: char) {
        self.keys(&key.to_string()).await;
    }

    /// Presses keys, one after the other.
    pub async fn keys(&self, text: &str) {
        let strokes = |key| {
            [
                json!({"type": "keyDown", "value": key}),
                json!({"type": "keyUp", "value": key}),
            ]
        };
        let strokes: Vec<Value> = text.chars().flat_map(strokes).collect();
        self.command(
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keys", "actions": strokes}]}),
        )
        .await;
    }

    /// Returns new messages of any level on the console. Ignores failed requests, except for
    /// missing files of the page itself.
    pub async fn complaints(&self) -> Vec<Value> {
        let log = self.command("/se/log", &json!({"type": "browser"})).await;
        let entries = log.as_array().expect("a log").clone();
        let is_missing = |entry: &Value| {
            let message = entry["message"].as_str().unwrap_or_default();
            message.contains("/assets/") && message.contains("status of 404")
        };
        entries
            .into_iter()
            .filter(|entry| entry["source"] != "network" || is_missing(entry))
            .collect()
    }

    /// Returns the serious and critical findings of axe-core.
    pub async fn barriers(&self) -> Vec<Value> {
        let script = firstcome_stack::axe()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"));
        let axe = std::fs::read_to_string(script).unwrap();
        let found = self.run(&format!("{axe}; return axe.run({{ preload: false, resultTypes: ['violations'] }}).then((found) => found.violations)")).await;
        let found = found.as_array().cloned().expect("axe gives a list");
        found
            .into_iter()
            .filter(|one| one["impact"] == "serious" || one["impact"] == "critical")
            .collect()
    }

    async fn cdp(&self, command: &str, params: &Value) -> Value {
        self.command(
            "/goog/cdp/execute",
            &json!({"cmd": command, "params": params}),
        )
        .await
    }

    async fn command(&self, path: &str, body: &Value) -> Value {
        let answer = self.try_command(path, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {} {}", error["error"], error["message"]))
    }

    /// Sends a command to the driver. The error is the driver's answer.
    async fn try_command(&self, path: &str, body: &Value) -> Result<Value, Value> {
        let url = format!("{}/session{}{path}", self.driver, self.session);
        let answer = self.client.post(url).json(body).send().await;
        let answer: Value = answer.expect("an answer").json().await.expect("JSON");
        let value = &answer["value"];
        if value["error"].is_null() {
            Ok(value.clone())
        } else {
            Err(value.clone())
        }
    }
}

impl Drop for Browser {
    /// Closes this browser before the next one gets its turn.
    fn drop(&mut self) {
        if self.session.is_empty() {
            return;
        }
        let close = || -> std::io::Result<()> {
            let mut driver =
                std::net::TcpStream::connect(self.driver.trim_start_matches("http://"))?;
            driver.set_read_timeout(Some(Duration::from_secs(10)))?;
            let path = format!("/session{}", self.session);
            write!(driver, "DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
            driver.read(&mut [0; 512]).map(|_| ())
        };
        if let Err(error) = close() {
            eprintln!("a browser was not closed: {error}; it ends with its driver");
        }
    }
}
