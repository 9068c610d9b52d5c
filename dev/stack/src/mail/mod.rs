//! A real SMTP server that keeps what it gets and misbehaves on demand.
//!
//! It is written here because no crate offers the misbehaviour: mailin-embedded, say, answers every
//! command from callbacks that must return, on threads of its own. It cannot stay silent after
//! accepting a connection or after the final dot, close its port and come back on it, or change its
//! ways while it runs.

mod session;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;

use self::session::SmtpSession;
use self::tls::SinkCertificates;
use crate::listener::Listener;

/// A mail as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The sender of the envelope (`MAIL FROM`), empty for a bounce.
    pub from: String,
    /// The recipients of the envelope (`RCPT TO`) that were not refused.
    pub to: Vec<String>,
    /// Headers and body, without dot-stuffing and without the final dot.
    pub raw: Vec<u8>,
    /// When the final dot came.
    pub received_at: SystemTime,
}

impl Mail {
    /// [`Mail::raw`] as text; transfer encodings are left as they are.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

/// How a [`MailSink`] treats those who talk to it. A change also holds for connections that are
/// open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    #[default]
    Normal,
    /// Refuses each mail for now: 451 to `MAIL FROM`.
    Refuse,
    /// Refuses this address for good (550 to `RCPT TO`), takes the others.
    RefuseRecipient(String),
    /// Refuses every address for good (550 to `RCPT TO`), as a server with a wrong relay rule does.
    RefuseRecipients,
    /// Takes the mail (it is kept) and answers the final dot this much later, as a server does that
    /// scans mails.
    SlowAfterData(Duration),
    /// Accepts connections and then never says a word.
    SilentAfterAccept,
    /// Takes the mail (it is kept) and never answers the final dot: the sender cannot know.
    SilentAfterData,
    /// Says each line this much later.
    Slow(Duration),
    /// Closes all connections and its port; the port stays reserved, any other behaviour opens it
    /// again.
    Down,
}

/// Whether the sink encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkEncryption {
    #[default]
    None,
    /// Begins in plain text and demands `STARTTLS` before it takes a mail.
    StartTls,
    /// TLS from the first byte, as on port 465.
    Implicit,
}

/// How a mail sink is started.
#[derive(Debug, Clone, Default)]
pub struct MailOptions {
    /// Where each mail is also written, as `000001.eml` and so on.
    pub folder: Option<PathBuf>,
    /// Whether it encrypts. Its certificate is made for this run, for `127.0.0.1` and `localhost`.
    pub tls: SinkEncryption,
}

/// A mail server on a free port of 127.0.0.1. It lives until it is dropped, whatever becomes of the
/// runtime that started it.
pub struct MailSink {
    listener: Listener,
    shared: Arc<Shared>,
    tls: SinkEncryption,
    certificates: Option<SinkCertificates>,
}

/// What the sink and its sessions have in common.
#[derive(Debug)]
struct Shared {
    mails: watch::Sender<Vec<Mail>>,
    behaviour: watch::Sender<Behaviour>,
    folder: Option<PathBuf>,
}

impl MailSink {
    /// Listens on a free port.
    pub async fn start(options: MailOptions) -> Result<Self> {
        if let Some(folder) = &options.folder {
            tokio::fs::create_dir_all(folder)
                .await
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let shared = Shared {
            mails: watch::Sender::default(),
            behaviour: watch::Sender::default(),
            folder: options.folder,
        };
        let shared = Arc::new(shared);
        let certificates = (options.tls != SinkEncryption::None)
            .then(SinkCertificates::make)
            .transpose()?;
        let acceptor = certificates
            .as_ref()
            .map(|certificates| certificates.acceptor.clone());
        let (tls, serving) = (options.tls, shared.clone());
        let listener = Listener::new(move |stream| {
            let (shared, acceptor) = (serving.clone(), acceptor.clone());
            // An error here is the client's way of hanging up.
            async move { drop(SmtpSession::run(stream, shared, tls, acceptor).await) }
        })?;
        listener.open().await?;
        Ok(Self {
            listener,
            shared,
            tls,
            certificates,
        })
    }

    /// The port on 127.0.0.1, also while it is down.
    pub fn port(&self) -> u16 {
        self.listener.port()
    }

    /// The address as lettre reads it: `smtp://…`, `smtp://…?tls=required` or `smtps://…`.
    pub fn url(&self) -> String {
        let port = self.port();
        match self.tls {
            SinkEncryption::None => format!("smtp://127.0.0.1:{port}"),
            SinkEncryption::StartTls => format!("smtp://127.0.0.1:{port}?tls=required"),
            SinkEncryption::Implicit => format!("smtps://127.0.0.1:{port}"),
        }
    }

    /// The certificate of the authority that a client must trust, in PEM; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.certificates
            .as_ref()
            .map(|certificates| certificates.ca_pem.as_str())
    }

    /// All mails so far, in the order they came.
    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.borrow().clone()
    }

    /// Forgets the mails so far. Files stay.
    pub fn clear(&self) {
        self.shared.mails.send_modify(Vec::clear);
    }

    /// Waits for a mail that satisfies the predicate, among those that came already and those to
    /// come.
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

    /// Switches to another behaviour; it holds when this returns.
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

    /// Keeps a mail. The file is written first: who sees the mail in memory finds it on disk too.
    async fn keep(&self, mail: Mail, number: u64) -> Result<()> {
        if let Some(folder) = &self.folder {
            let part = folder.join(format!("{number:06}.part"));
            tokio::fs::write(&part, &mail.raw).await?;
            tokio::fs::rename(part, folder.join(format!("{number:06}.eml"))).await?;
        }
        self.mails.send_modify(|mails| mails.push(mail));
        Ok(())
    }
}
