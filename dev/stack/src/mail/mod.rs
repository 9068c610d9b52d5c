//! A real SMTP server that stores mails and misbehaves on demand.
//!
//! It is hand-written, because no crate can misbehave in these ways: stay silent after it accepts a
//! connection or after the final dot, close and reopen its port, or change its behaviour while it
//! runs.

mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::{Notify, watch};

use self::session::SmtpSession;
use crate::certificates::CertificateFolder;
use crate::listener::Listener;

/// A mail as it was received from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The sender of the envelope (`MAIL FROM`), empty for a bounce.
    pub from: String,
    /// The accepted recipients of the envelope (`RCPT TO`).
    pub to: Vec<String>,
    /// Headers and body, without dot-stuffing and without the final dot.
    pub raw: Vec<u8>,
}

impl Mail {
    /// Returns [`Mail::raw`] as text, without decoding transfer encodings.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

/// The behaviour of a [`MailSink`] towards its clients. A change also applies to open connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    #[default]
    Normal,
    /// Temporarily refuses each mail: 451 to `MAIL FROM`.
    Refuse,
    /// Permanently refuses this address (550 to `RCPT TO`) and accepts the others.
    RefuseRecipient(String),
    /// Permanently refuses every address (550 to `RCPT TO`), like a server with a wrong relay rule.
    RefuseRecipients,
    /// Accepts and stores the mail but delays the response to the final dot until
    /// [`MailSink::respond`], like a server that scans mails.
    SlowAfterData,
    /// Accepts connections and never sends anything.
    SilentAfterAccept,
    /// Accepts and stores the mail but never answers the final dot, so the sender does not know the
    /// result.
    SilentAfterData,
    /// Closes all connections and its port. The port stays reserved, and any other behaviour
    /// reopens it.
    Down,
}

/// The encryption of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkEncryption {
    #[default]
    None,
    /// Begins in plain text and requires `STARTTLS` before it accepts a mail.
    StartTls,
    /// TLS from the first byte, as on port 465.
    Implicit,
}

/// Options for starting a mail sink.
#[derive(Debug, Clone, Default)]
pub struct MailOptions {
    /// Folder to which each mail is also written, as `000001.eml` and so on.
    pub folder: Option<PathBuf>,
    /// Encryption, with a certificate generated for this run, for `127.0.0.1`.
    pub tls: SinkEncryption,
}

/// A mail server on a free port of 127.0.0.1. It lives until it is dropped, independent of the
/// runtime that started it.
pub struct MailSink {
    listener: Listener,
    shared: Arc<Shared>,
    tls: SinkEncryption,
    ca_pem: Option<String>,
}

/// State shared by the sink and its sessions.
#[derive(Debug)]
struct Shared {
    mails: watch::Sender<Vec<Mail>>,
    behaviour: watch::Sender<Behaviour>,
    /// Lets a delayed response be sent.
    respond: Notify,
    folder: Option<PathBuf>,
    /// Numbers the files.
    number: AtomicU64,
}

impl MailSink {
    /// Starts a sink on a free port.
    pub async fn start(options: MailOptions) -> Result<Self> {
        if let Some(folder) = &options.folder {
            tokio::fs::create_dir_all(folder)
                .await
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let shared = Shared {
            mails: watch::Sender::default(),
            behaviour: watch::Sender::default(),
            respond: Notify::new(),
            folder: options.folder,
            number: AtomicU64::new(1),
        };
        let shared = Arc::new(shared);
        let (mut ca_pem, mut acceptor) = (None, None);
        if options.tls != SinkEncryption::None {
            let certificates = CertificateFolder::make()?;
            ca_pem = Some(std::fs::read_to_string(certificates.path("ca.pem"))?);
            acceptor = Some(certificates.acceptor("server")?);
        }
        let tls = options.tls;
        let serving = shared.clone();
        let listener = Listener::new(move |stream| {
            let shared = serving.clone();
            let acceptor = acceptor.clone();
            // An error means that the client hung up.
            async move { drop(SmtpSession::run(stream, shared, tls, acceptor).await) }
        })?;
        listener.open().await?;
        Ok(Self {
            listener,
            shared,
            tls,
            ca_pem,
        })
    }

    /// Returns the port on 127.0.0.1, even while the sink is down.
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Returns the address in lettre's format: `smtp://…`, `smtp://…?tls=required` or `smtps://…`.
    pub fn url(&self) -> String {
        let port = self.port();
        match self.tls {
            SinkEncryption::None => format!("smtp://127.0.0.1:{port}"),
            SinkEncryption::StartTls => format!("smtp://127.0.0.1:{port}?tls=required"),
            SinkEncryption::Implicit => format!("smtps://127.0.0.1:{port}"),
        }
    }

    /// Returns the certificate of the authority that clients must trust, in PEM. `None` without
    /// TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Returns all mails received, in order of arrival.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.borrow().clone()
    }

    /// Clears the received mails. Their files remain.
    pub fn clear(&self) {
        self.shared.mails.send_modify(Vec::clear);
    }

    /// Waits for a mail that satisfies the predicate, among past and future ones.
    pub async fn wait_for(
        &self,
        mut predicate: impl FnMut(&Mail) -> bool,
        limit: Duration,
    ) -> Result<Mail> {
        let mut watching = self.shared.mails.subscribe();
        let mut found = None;
        let waiting = watching.wait_for(|mails| {
            found = mails.iter().find(|mail| predicate(mail)).cloned();
            found.is_some()
        });
        let ended = tokio::time::timeout(limit, waiting).await.is_ok();
        found.filter(|_| ended).ok_or_else(|| {
            anyhow!(
                "no such mail within {limit:?}, among {} that came",
                self.shared.mails.borrow().len()
            )
        })
    }

    /// Sends one response that [`Behaviour::SlowAfterData`] delays, now or as soon as there is one.
    pub fn respond(&self) {
        self.shared.respond.notify_one();
    }

    /// Switches the behaviour. It applies when this returns.
    pub async fn set(&self, behaviour: Behaviour) -> Result<()> {
        let down = behaviour == Behaviour::Down;
        self.shared.behaviour.send_replace(behaviour);
        if down {
            self.listener.close().await;
            return Ok(());
        }
        self.listener.open().await
    }
}

impl std::fmt::Debug for MailSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailSink")
            .field("port", &self.port())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.borrow().clone()
    }

    /// Stores a mail. The file is written first, so that every mail in memory is also on disk.
    async fn keep(&self, mail: Mail) -> Result<()> {
        if let Some(folder) = &self.folder {
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let part = folder.join(format!("{number:06}.part"));
            tokio::fs::write(&part, &mail.raw).await?;
            tokio::fs::rename(part, folder.join(format!("{number:06}.eml"))).await?;
        }
        self.mails.send_modify(|mails| mails.push(mail));
        Ok(())
    }
}
