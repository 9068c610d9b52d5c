//! One SMTP dialogue (RFC 5321, with STARTTLS of RFC 3207).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_rustls::TlsAcceptor;

use super::{Behaviour, Mail, Shared, SinkEncryption};

/// The largest mail in bytes, as announced by `SIZE`.
const LARGEST: usize = 25 * 1024 * 1024;

/// Numbers the files of all sinks of this process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The state of a dialogue.
pub(super) struct SmtpSession {
    stream: BufReader<Box<dyn Stream>>,
    shared: Arc<Shared>,
    /// `Some` while STARTTLS is offered.
    starttls: Option<TlsAcceptor>,
    from: Option<String>,
    to: Vec<String>,
}

/// Whether the dialogue continues.
#[derive(PartialEq)]
enum Next {
    Go,
    Quit,
}

impl SmtpSession {
    /// Serves a client until it disconnects.
    pub(super) async fn run(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        shared: Arc<Shared>,
        tls: SinkEncryption,
        acceptor: Option<TlsAcceptor>,
    ) -> Result<()> {
        let mut stream: Box<dyn Stream> = Box::new(stream);
        if shared.behaviour() == Behaviour::SilentAfterAccept {
            return listen_in_silence(&mut stream).await;
        }
        let mut starttls = None;
        match (tls, acceptor) {
            (SinkEncryption::Implicit, Some(acceptor)) => {
                stream = Box::new(acceptor.accept(stream).await?);
            }
            (SinkEncryption::StartTls, acceptor) => starttls = acceptor,
            _ => {}
        }
        let mut session = Self {
            stream: BufReader::new(stream),
            shared,
            starttls,
            from: None,
            to: Vec::new(),
        };
        session
            .say("220 localhost ESMTP firstcome mail sink")
            .await?;
        while let Some(line) = session.line().await? {
            if session
                .obey(String::from_utf8_lossy(&line).trim_end())
                .await?
                == Next::Quit
            {
                break;
            }
        }
        Ok(())
    }

    async fn obey(&mut self, line: &str) -> Result<Next> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => self.greet().await?,
            "HELO" => self.say("250 localhost").await?,
            "STARTTLS" => self.start_tls().await?,
            "MAIL" => self.mail(rest).await?,
            "RCPT" => self.recipient(rest).await?,
            "DATA" => self.data().await?,
            "RSET" => {
                self.reset();
                self.say("250 2.0.0 forgotten").await?;
            }
            "NOOP" => self.say("250 2.0.0 fine").await?,
            "VRFY" => self.say("252 2.1.5 try it").await?,
            "QUIT" => {
                self.say("221 2.0.0 bye").await?;
                return Ok(Next::Quit);
            }
            _ => self.say("500 5.5.2 no such command").await?,
        }
        Ok(Next::Go)
    }

    async fn greet(&mut self) -> Result<()> {
        self.reset();
        self.say("250-localhost").await?;
        self.say("250-PIPELINING").await?;
        self.say("250-8BITMIME").await?;
        self.say("250-SMTPUTF8").await?;
        if self.starttls.is_some() {
            self.say("250-STARTTLS").await?;
        }
        self.say(&format!("250 SIZE {LARGEST}")).await
    }

    async fn start_tls(&mut self) -> Result<()> {
        let Some(acceptor) = self.starttls.take() else {
            return self.say("503 5.5.1 not on offer").await;
        };
        self.say("220 2.0.0 go ahead").await?;
        let plain = std::mem::replace(
            &mut self.stream,
            BufReader::new(Box::new(tokio::io::empty())),
        );
        // Discards plain text that was read ahead, because it must not count as sent under TLS.
        self.stream = BufReader::new(Box::new(acceptor.accept(plain.into_inner()).await?));
        self.reset();
        Ok(())
    }

    async fn mail(&mut self, rest: &str) -> Result<()> {
        if self.starttls.is_some() {
            return self.say("530 5.7.0 issue STARTTLS first").await;
        }
        if self.from.is_some() {
            return self.say("503 5.5.1 one mail at a time").await;
        }
        if self.shared.behaviour() == Behaviour::Refuse {
            return self.say("451 4.3.2 not now").await;
        }
        let Some(from) = address(rest, "FROM:") else {
            return self.say("501 5.5.4 MAIL FROM:<address>").await;
        };
        self.from = Some(from);
        self.say("250 2.1.0 go on").await
    }

    async fn recipient(&mut self, rest: &str) -> Result<()> {
        if self.from.is_none() {
            return self.say("503 5.5.1 MAIL first").await;
        }
        let Some(to) = address(rest, "TO:") else {
            return self.say("501 5.5.4 RCPT TO:<address>").await;
        };
        match self.shared.behaviour() {
            Behaviour::RefuseRecipient(refused) if refused.eq_ignore_ascii_case(&to) => {
                return self.say("550 5.1.1 nobody of that name").await;
            }
            Behaviour::RefuseRecipients => return self.say("550 5.7.1 relaying denied").await,
            _ => {}
        }
        self.to.push(to);
        self.say("250 2.1.5 go on").await
    }

    async fn data(&mut self) -> Result<()> {
        if self.to.is_empty() {
            return self.say("503 5.5.1 RCPT first").await;
        }
        self.say("354 end with a dot").await?;
        let raw = self.content().await?;
        let from = self.from.take().unwrap_or_default();
        // The behaviour is read before the mail is stored, because a test that waits for the mail
        // may change it afterwards.
        let behaviour = self.shared.behaviour();
        let mail = Mail {
            from,
            to: std::mem::take(&mut self.to),
            raw,
            received_at: SystemTime::now(),
        };
        if mail.raw.len() > LARGEST {
            return self.say("552 5.3.4 too large").await;
        }
        if self
            .shared
            .keep(mail, NUMBER.fetch_add(1, Ordering::Relaxed))
            .await
            .is_err()
        {
            return self.say("451 4.3.0 cannot write it down").await;
        }
        match behaviour {
            Behaviour::SilentAfterData => return listen_in_silence(&mut self.stream).await,
            Behaviour::SlowAfterData(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        self.say("250 2.0.0 kept").await
    }

    /// Reads up to the final dot and removes dot-stuffing. Only CR LF ends a line. If a bare LF
    /// did, a body could smuggle in a second mail.
    async fn content(&mut self) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        let mut begins = true;
        loop {
            let line = self
                .line()
                .await?
                .context("it hung up in the middle of a mail")?;
            if begins && line == b".\r\n" {
                return Ok(raw);
            }
            let stuffed = begins && line.first() == Some(&b'.');
            // A mail beyond the limit is read to its end but not stored, and is then refused.
            if raw.len() <= LARGEST {
                raw.extend_from_slice(&line[usize::from(stuffed)..]);
            }
            begins = line.ends_with(b"\r\n");
        }
    }

    /// Returns the bytes up to and including the next LF, or `None` once the client has
    /// disconnected.
    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = u64::try_from(LARGEST)?;
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)
            .await?;
        Ok(Some(line).filter(|line| line.ends_with(b"\n")))
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        match self.shared.behaviour() {
            Behaviour::SilentAfterAccept => return listen_in_silence(&mut self.stream).await,
            Behaviour::Slow(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        self.stream
            .write_all(format!("{line}\r\n").as_bytes())
            .await?;
        Ok(self.stream.flush().await?)
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
    }
}

/// Reads until the client disconnects, which ends the dialogue.
async fn listen_in_silence(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    bail!("it hung up")
}

/// Returns the address between the angle brackets of `FROM:<a@b> SIZE=1`.
fn address(rest: &str, prefix: &str) -> Option<String> {
    let (start, path) = rest.split_at_checked(prefix.len())?;
    let inside = path.trim_start().strip_prefix('<')?.split_once('>')?.0;
    start
        .eq_ignore_ascii_case(prefix)
        .then(|| inside.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_address_from_its_angle_brackets() {
        assert_eq!(
            address("FROM:<a@b.c> BODY=8BITMIME", "FROM:").as_deref(),
            Some("a@b.c")
        );
        assert_eq!(address("from: <>", "FROM:").as_deref(), Some(""));
        assert_eq!(address("TO:a@b.c", "TO:"), None);
        assert_eq!(address("FROM:<a@b.c>", "TO:"), None);
    }
}
