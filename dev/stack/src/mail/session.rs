//! One SMTP dialogue (RFC 5321, with STARTTLS of RFC 3207).

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_rustls::TlsAcceptor;

use super::{Behaviour, Mail, Shared, SinkEncryption};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An SMTP connection, with the sender and recipients of the mail that the client is sending.
pub(super) struct SmtpSession {
    stream: BufReader<Box<dyn Stream>>,
    shared: Arc<Shared>,
    /// `Some` while STARTTLS is offered.
    starttls: Option<TlsAcceptor>,
    from: String,
    to: Vec<String>,
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
            from: String::new(),
            to: Vec::new(),
        };
        session.say("220 localhost firstcome mail sink").await?;
        while let Some(line) = session.line().await? {
            let line = String::from_utf8_lossy(&line).into_owned();
            if !session.obey(line.trim_end()).await? {
                break;
            }
        }
        Ok(())
    }

    /// Executes one command of the client. Returns whether the dialogue continues.
    async fn obey(&mut self, line: &str) -> Result<bool> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        // The address between the angle brackets of `FROM:<a@b> SIZE=1`.
        let address = rest
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'));
        let address = address.map_or("", |(address, _)| address);
        let behaviour = self.shared.behaviour();
        let reply = match verb.to_ascii_uppercase().as_str() {
            "EHLO" if self.starttls.is_some() => "250-localhost\r\n250 STARTTLS",
            "EHLO" => "250-localhost\r\n250 8BITMIME",
            "STARTTLS" => {
                self.start_tls().await?;
                return Ok(true);
            }
            "MAIL" if self.starttls.is_some() => "530 5.7.0 issue STARTTLS first",
            "MAIL" if behaviour == Behaviour::Refuse => "451 4.3.2 not now",
            "MAIL" => {
                address.clone_into(&mut self.from);
                self.to.clear();
                "250 2.1.0 go on"
            }
            "RCPT" => match behaviour {
                Behaviour::RefuseRecipient(refused) if refused.eq_ignore_ascii_case(address) => {
                    "550 5.1.1 nobody of that name"
                }
                Behaviour::RefuseRecipients => "550 5.7.1 relaying denied",
                _ => {
                    self.to.push(address.to_owned());
                    "250 2.1.5 go on"
                }
            },
            "DATA" if self.to.is_empty() => "503 5.5.1 RCPT first",
            "DATA" => self.data().await?,
            "RSET" => {
                self.from.clear();
                self.to.clear();
                "250 2.0.0 fine"
            }
            "NOOP" => "250 2.0.0 fine",
            "QUIT" => "221 2.0.0 bye",
            _ => "500 5.5.2 no such command",
        };
        self.say(reply).await?;
        Ok(!reply.starts_with("221"))
    }

    async fn start_tls(&mut self) -> Result<()> {
        let acceptor = self.starttls.take().context("it is not on offer")?;
        self.say("220 2.0.0 go ahead").await?;
        let none = BufReader::new(Box::new(tokio::io::empty()) as Box<dyn Stream>);
        let plain = std::mem::replace(&mut self.stream, none);
        // Discards plain text that was read ahead, because it must not count as sent under TLS.
        self.stream = BufReader::new(Box::new(acceptor.accept(plain.into_inner()).await?));
        Ok(())
    }

    async fn data(&mut self) -> Result<&'static str> {
        self.say("354 end with a dot").await?;
        let mail = Mail {
            raw: self.content().await?,
            from: std::mem::take(&mut self.from),
            to: std::mem::take(&mut self.to),
        };
        // The behaviour is read before the mail is stored, because a test that waits for the mail
        // may change it afterwards.
        let behaviour = self.shared.behaviour();
        self.shared.keep(mail).await?;
        match behaviour {
            Behaviour::SilentAfterData => listen_in_silence(&mut self.stream).await?,
            Behaviour::SlowAfterData => self.shared.respond.notified().await,
            _ => {}
        }
        Ok("250 2.0.0 kept")
    }

    /// Reads up to the final dot and removes dot-stuffing. Only CR LF ends a line. If a bare LF
    /// did, a body could smuggle in a second mail.
    async fn content(&mut self) -> Result<Vec<u8>> {
        let mut raw = Vec::new();
        let mut begins = true;
        loop {
            let line = self.line().await?;
            let line = line.context("it hung up in the middle of a mail")?;
            if begins && line == b".\r\n" {
                return Ok(raw);
            }
            let stuffed = begins && line.first() == Some(&b'.');
            raw.extend_from_slice(&line[usize::from(stuffed)..]);
            begins = line.ends_with(b"\r\n");
        }
    }

    /// Returns the bytes up to and including the next LF, or `None` once the client has
    /// disconnected.
    async fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        Ok(Some(line).filter(|line| line.ends_with(b"\n")))
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        if self.shared.behaviour() == Behaviour::SilentAfterAccept {
            return listen_in_silence(&mut self.stream).await;
        }
        let line = format!("{line}\r\n");
        self.stream.write_all(line.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }
}

/// Reads until the client disconnects, which ends the dialogue.
async fn listen_in_silence(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    tokio::io::copy(stream, &mut tokio::io::sink()).await?;
    bail!("it hung up")
}
