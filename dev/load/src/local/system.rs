//! The whole system on this machine: private servers, and the product's programs as processes.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use firstcome_harness::{Role, Service, System};
use firstcome_stack::{MailOptions, Stack, StackOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Target;
use crate::identity::{token, token_settings};
use crate::installation::Installation;
use crate::ops::Ops;
use crate::terminal::step;

pub const TOPIC: &str = "coupon-claims";

/// A separate API for coupon pages. It identifies users by the token in their link; the other APIs,
/// which scripts and crowds call, read the user from a header.
#[derive(Debug)]
pub struct PageApi {
    pub service: Service,
    /// A token for one user.
    pub token: String,
}

/// All processes. Dropping this kills them; [`Local::stop`] stops them gracefully.
#[derive(Debug)]
pub struct Local {
    pub apis: [Service; 2],
    /// Two consumers, until one is killed.
    pub consumers: Vec<Service>,
    pub reconciler: Service,
    pub pages: Option<PageApi>,
    pub installation: Installation,
}

impl Local {
    /// Starts the servers, creates tables and topic, starts the processes, and waits until
    /// admission is open. With a folder for logs and mails, it also serves coupon pages, and uses
    /// the usual ports (8080 to 8083) if they are free.
    pub async fn start(cron: &str, folder: Option<&Path>) -> Result<Self> {
        step("starting Redis, MySQL, Kafka and a mail server");
        let mail = MailOptions {
            folder: folder.map(|folder| folder.join("mails")),
            ..MailOptions::default()
        };
        let stack = StackOptions {
            mail,
            ..StackOptions::default()
        };
        let logs = folder.map(|folder| folder.join("logs"));
        let servers = Arc::new(Stack::start(stack).await?);
        step("creating tables and topic");
        let port = |wanted| address(folder.and(Some(wanted)));
        let page_address = port(8083);
        let mut own = vec![
            ("RECONCILE_CRON", cron.to_owned()),
            ("ALERT_FROM", "firstcome@example.com".into()),
            ("ALERT_TO", "on-duty@example.com".into()),
            ("KAFKA_TOPIC", TOPIC.into()),
        ];
        if !page_address.ends_with(":0") {
            // The operations page prints the address of coupon pages.
            let url = format!("http://{page_address}");
            own.extend([("API_URL", url.clone()), ("API_PUBLIC_URL", url)]);
        }
        let system = System::new(None, logs.as_deref(), servers.env().into_iter().chain(own))?;
        system.migrate(&[]).await?;
        let installation = Installation { servers, system };
        step("starting the reconciler, two APIs and two consumers");
        let start = async |name: &str, role, usual: Option<u16>| {
            let address = usual.map_or_else(|| address(None), port);
            let own = [("LISTEN_ADDR", address.as_str())];
            installation.start(name, role, &own).await
        };
        let (reconciler, api, second_api, consumer, second_consumer, pages) = tokio::try_join!(
            start("reconciler", Role::Reconciler, Some(8081)),
            start("api-1", Role::Api, Some(8080)),
            start("api-2", Role::Api, None),
            start("consumer-1", Role::Consumer, Some(8082)),
            start("consumer-2", Role::Consumer, None),
            async {
                Ok(match folder {
                    Some(_) => Some(start_pages(&installation, &page_address).await?),
                    None => None,
                })
            },
        )?;
        for api in [&api, &second_api] {
            installation.until_ready(api).await?;
        }
        Ok(Self {
            apis: [api, second_api],
            consumers: vec![consumer, second_consumer],
            reconciler,
            pages,
            installation,
        })
    }

    pub fn api(&self) -> Ops {
        self.installation.ops(&self.apis[0])
    }

    pub fn reconciler(&self) -> Ops {
        self.installation.ops(&self.reconciler)
    }

    pub fn targets(&self) -> Result<Vec<Target>> {
        self.apis.iter().map(|api| api.url.parse()).collect()
    }

    /// Sends SIGTERM to every process and waits. Returns the processes that did not stop cleanly.
    pub async fn stop(self) -> Vec<String> {
        let mut complaints = Vec::new();
        let pages = self.pages.map(|pages| pages.service);
        let apis = self.apis.into_iter().chain(pages);
        for service in apis.chain(self.consumers).chain([self.reconciler]) {
            complaints.extend(service.stop().await.err().map(|error| format!("{error:#}")));
        }
        complaints
    }
}

async fn start_pages(installation: &Installation, address: &str) -> Result<PageApi> {
    let secret = format!("{:032x}", rand::random::<u128>());
    let mut own = vec![("LISTEN_ADDR", address), ("COUPON_PAGE", "on")];
    own.extend(token_settings(&secret));
    let service = installation.start("pages", Role::Api, &own).await?;
    let token = token(&secret, "you")?;
    Ok(PageApi { service, token })
}

/// Returns an address with the requested port if that is free, otherwise with port 0 (any free
/// port).
fn address(wanted: Option<u16>) -> String {
    let free = wanted.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    format!("127.0.0.1:{}", free.unwrap_or(0))
}

/// Waits for Ctrl-C or SIGTERM and returns its name.
pub async fn stopped() -> std::io::Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! { _ = interrupt.recv() => "Ctrl-C", _ = terminate.recv() => "SIGTERM" })
}
