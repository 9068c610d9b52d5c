use std::time::Duration;

use crate::Wire;

/// A raw client of the mail sink.
pub(crate) struct Smtp(pub(crate) Wire);

impl Smtp {
    /// Connects and greets.
    pub(crate) async fn hello(port: u16) -> Self {
        let mut smtp = Self(Wire::connect(port).await.unwrap());
        assert!(smtp.0.hear().await.unwrap().starts_with("220 "));
        smtp.say("EHLO me").await;
        smtp
    }

    /// Sends a line and returns the last line of the answer.
    pub(crate) async fn say(&mut self, line: &str) -> String {
        self.0.say(line).await.unwrap();
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> String {
        loop {
            let line = self.0.hear().await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    /// Sends envelope and text; returns the answers to `MAIL`, `RCPT` and the final dot.
    pub(crate) async fn send(&mut self, to: &str, text: &str) -> [String; 3] {
        let from = self.say("MAIL FROM:<from@x.y> BODY=8BITMIME").await;
        let to = self.say(&format!("RCPT TO:<{to}>")).await;
        assert!(self.say("DATA").await.starts_with("354 "));
        [from, to, self.say(&format!("{text}\r\n.")).await]
    }
}

pub(crate) const SHORT: Duration = Duration::from_millis(30);
