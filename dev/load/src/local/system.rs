//! The whole system on this machine: private servers, and the product's programs as processes.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use firstcome_stack::{MailOptions, StackOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Target;
use crate::launch::{ANY_PORT, Installation, Servers, Service};
use crate::ops::Ops;
use crate::terminal::step;

pub const TOPIC: &str = "coupon-claims";

#[derive(Debug, Clone)]
pub struct SystemOptions {
    /// Number of API processes. The first listens on port 8080 if that is free.
    pub apis: usize,
    pub consumers: usize,
    /// Cron schedule of the reconciler, with six fields.
    pub reconcile_cron: String,
    /// Folder to which each mail is also written.
    pub mail_folder: Option<PathBuf>,
    /// Folder for logs. By default a temporary folder.
    pub log_folder: Option<PathBuf>,
    /// Whether to use the usual ports (8080 to 8083) if they are free.
    pub usual_ports: bool,
    /// Whether to serve coupon pages.
    pub pages: bool,
}

/// A separate API for coupon pages. It identifies users by the token in their link; the other APIs,
/// which scripts and crowds call, read the user from a header.
#[derive(Debug)]
pub struct PageApi {
    service: Service,
    /// A token for one user.
    pub token: String,
}

impl PageApi {
    async fn start(installation: &Installation, address: &str) -> Result<Self> {
        let secret = format!("{:032x}", rand::random::<u128>());
        let service = installation.pages_at(address, &secret).await?;
        let token = crate::identity::token(&secret, "you")?;
        Ok(Self { service, token })
    }

    pub fn target(&self) -> Result<Target> {
        self.service.target()
    }
}

/// All processes. Dropping this kills them; [`System::stop`] stops them gracefully.
#[derive(Debug)]
pub struct System {
    pub apis: Vec<Service>,
    pub consumers: Vec<Service>,
    pub reconciler: Service,
    pub pages: Option<PageApi>,
    pub installation: Installation,
    /// Redis, MySQL, Kafka and the mail sink.
    pub servers: Arc<Servers>,
}

impl System {
    /// Starts the servers, creates tables and topic, starts the processes, and waits until
    /// admission is open.
    pub async fn start(options: &SystemOptions) -> Result<Self> {
        step("starting Redis, MySQL, Kafka and a mail server");
        let mail = MailOptions {
            folder: options.mail_folder.clone(),
            ..MailOptions::default()
        };
        let stack = StackOptions {
            mail,
            ..StackOptions::default()
        };
        let servers = Arc::new(Servers::start(stack, options.log_folder.as_deref()).await?);
        step("creating tables and topic");
        let port = |wanted: u16, number: usize| {
            address((options.usual_ports && number == 1).then_some(wanted))
        };
        let first_api = port(8080, 1);
        let page_api = port(8083, 1);
        // The operations page prints the address of coupon pages if its API serves them.
        let of_page = if options.pages { &page_api } else { &first_api };
        let api_url = Some(format!("http://{of_page}")).filter(|_| of_page != ANY_PORT);
        let api_url = ["API_URL", "API_PUBLIC_URL"].map(|name| Some((name, api_url.clone()?)));
        let own = [
            ("SMTP_URL", servers.stack.mail.url()),
            ("RECONCILE_CRON", options.reconcile_cron.clone()),
            ("ALERT_FROM", "firstcome@example.com".into()),
            ("ALERT_TO", "on-duty@example.com".into()),
            ("KAFKA_TOPIC", TOPIC.into()),
        ];
        let own = own.into_iter().chain(api_url.into_iter().flatten());
        let installation = Installation::create(&servers, own).await?;
        step(format!(
            "starting the reconciler, {} API process(es) and {} consumer(s)",
            options.apis, options.consumers
        ));
        let api_port = |number: usize| {
            if number == 1 {
                first_api.clone()
            } else {
                ANY_PORT.to_owned()
            }
        };
        let (reconciler, apis, consumers, pages) = tokio::try_join!(
            async { installation.reconciler_at(&port(8081, 1)).await },
            each(options.apis, async |n| installation
                .api_at(&format!("api-{n}"), &api_port(n))
                .await),
            each(options.consumers, async |n| installation
                .consumer_at(&format!("consumer-{n}"), &port(8082, n))
                .await),
            async {
                if !options.pages {
                    return Ok(None);
                }
                PageApi::start(&installation, &page_api).await.map(Some)
            },
        )?;
        for api in &apis {
            installation.until_ready(api).await?;
        }
        Ok(Self {
            apis,
            consumers,
            reconciler,
            pages,
            installation,
            servers,
        })
    }

    pub fn api(&self) -> Result<Ops> {
        self.installation
            .ops(self.apis.first().context("no API runs")?)
    }

    pub fn reconciler(&self) -> Result<Ops> {
        self.installation.ops(&self.reconciler)
    }

    pub fn targets(&self) -> Result<Vec<Target>> {
        self.apis.iter().map(Service::target).collect()
    }

    /// Returns the scrape targets by job, as in deploy/prometheus/prometheus.yml.
    pub fn scrape_jobs(&self) -> Result<Vec<(String, Vec<String>)>> {
        let addresses = |services: &mut dyn Iterator<Item = &Service>| -> Result<Vec<String>> {
            services
                .map(|service| Ok(service.target()?.to_string().replace("http://", "")))
                .collect()
        };
        let pages = self.pages.iter().map(|pages| &pages.service);
        Ok(vec![
            (
                "firstcome-api".into(),
                addresses(&mut self.apis.iter().chain(pages))?,
            ),
            (
                "firstcome-consumer".into(),
                addresses(&mut self.consumers.iter())?,
            ),
            (
                "firstcome-reconciler".into(),
                addresses(&mut [&self.reconciler].into_iter())?,
            ),
        ])
    }

    /// Sends SIGTERM to every process and waits. Returns the processes that did not stop cleanly.
    pub async fn stop(self) -> Vec<String> {
        let mut complaints = Vec::new();
        let pages = self.pages.map(|pages| pages.service);
        for service in self
            .apis
            .into_iter()
            .chain(pages)
            .chain(self.consumers)
            .chain([self.reconciler])
        {
            complaints.extend(service.stop().await.err().map(|error| format!("{error:#}")));
        }
        complaints
    }
}

/// Starts services 1 to `count`, one after the other.
async fn each(count: usize, start: impl AsyncFn(usize) -> Result<Service>) -> Result<Vec<Service>> {
    let mut services = Vec::new();
    for number in 1..=count {
        services.push(start(number).await?);
    }
    Ok(services)
}

/// Returns the requested port if it is free, otherwise any free port.
fn address(wanted: Option<u16>) -> String {
    match wanted.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
        Some(port) => format!("127.0.0.1:{port}"),
        None => ANY_PORT.to_owned(),
    }
}

/// Waits for Ctrl-C or SIGTERM and returns its name.
pub async fn stopped() -> std::io::Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! { _ = interrupt.recv() => "Ctrl-C", _ = terminate.recv() => "SIGTERM" })
}
