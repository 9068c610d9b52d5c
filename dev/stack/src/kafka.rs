//! Kafka in KRaft mode: broker and controller in one JVM.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, anyhow, bail};

use crate::fetch;
use crate::kafka_node::KafkaNode;
use crate::kafka_wire;
use crate::ports::ReservedPort;
use crate::process::CommandLine;
use crate::proxy::FaultProxy;
use crate::server::{Instance, Server, ServerKind};

/// Options for starting Kafka.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// The ports of up to three proxies on 127.0.0.1. They are advertised instead of the server's
    /// ports, so that clients that connect through a proxy keep using it.
    pub advertised_ports: Vec<u16>,
    /// Additional properties of `server.properties`, which take precedence.
    pub extra_properties: BTreeMap<String, String>,
    /// The node's place in a cluster. `None` for a single broker.
    pub node: Option<KafkaNode>,
}

/// A private Kafka broker, which is alone or a node of a [`crate::KafkaCluster`]. It does not
/// create topics automatically, and consumer groups start without delay.
pub type KafkaServer = Server<KafkaOptions>;

impl KafkaServer {
    /// Returns `127.0.0.1:PORT` for `bootstrap.servers`, with the proxy's port if one is
    /// advertised.
    pub fn bootstrap(&self) -> String {
        let advertised = self.options.advertised_ports.first().copied();
        format!("127.0.0.1:{}", advertised.unwrap_or(self.port()))
    }

    /// Starts a Kafka whose clients all use a proxy. (A proxy in front of a running Kafka gets only
    /// the first connection, because clients then follow `advertised.listeners`.)
    pub async fn start_behind_proxy(options: KafkaOptions) -> Result<(Self, FaultProxy)> {
        let (server, [proxy]) = Self::start_behind_proxies(options).await?;
        Ok((server, proxy))
    }

    /// Starts a Kafka behind several proxies, each for a different set of clients.
    pub async fn start_behind_proxies<const N: usize>(
        mut options: KafkaOptions,
    ) -> Result<(Self, [FaultProxy; N])> {
        let mut proxies = Vec::with_capacity(N);
        for _ in 0..N {
            proxies.push(FaultProxy::start(0).await?);
        }
        options.advertised_ports = proxies.iter().map(FaultProxy::port).collect();
        let server = Self::start(options).await?;
        for (proxy, port) in proxies.iter().zip(ways(&server.instance)) {
            proxy.set_upstream(port);
        }
        Ok((
            server,
            proxies
                .try_into()
                .map_err(|_| anyhow!("wrong number of proxies"))?,
        ))
    }
}

/// Returns the ports that clients use, one per listener.
fn ways(instance: &Instance) -> impl Iterator<Item = u16> {
    instance
        .ports
        .iter()
        .map(ReservedPort::number)
        .take(KafkaOptions::PORTS - 1)
}

impl KafkaOptions {
    fn id(&self) -> usize {
        self.node.as_ref().map_or(1, KafkaNode::id)
    }

    fn properties(&self, instance: &Instance) -> Result<String> {
        let alone = || {
            instance
                .ports
                .last()
                .map(|port| vec![port.number()])
                .context("Kafka has no controller port")
        };
        let controllers = self
            .node
            .as_ref()
            .map_or_else(alone, |node| Ok(node.controllers()))?;
        let own = if self.advertised_ports.is_empty() {
            vec![instance.port()]
        } else {
            self.advertised_ports.clone()
        };
        let ways: Vec<_> = ways(instance).zip(own).collect();
        let mut text = fetch::kafka_properties(&instance.data, self.id(), &controllers, &ways);
        if self.node.is_some() {
            text.push_str(KafkaNode::PROPERTIES);
        }
        for (name, value) in &self.extra_properties {
            writeln!(text, "{name}={value}")?;
        }
        Ok(text)
    }
}

impl ServerKind for KafkaOptions {
    const NAME: &'static str = "kafka";
    /// Three client listeners, and the controller.
    const PORTS: usize = 4;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        let template = fetch::kafka()?.log_template()?;
        for file in fs::read_dir(template)? {
            let file = file?;
            fs::copy(file.path(), instance.data.join(file.file_name()))?;
        }
        self.node
            .as_ref()
            .map_or(Ok(()), |node| node.takes_over(&instance.data))
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let properties = instance.dir.join("server.properties");
        fs::write(&properties, self.properties(instance)?)?;
        fetch::kafka()?.broker(self.node.is_some().then_some(KafkaNode::HEAP), &properties)
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        // A broker that listens but is still fenced by its controller does not appear in the
        // metadata.
        let id = i32::try_from(self.id())?;
        if !kafka_wire::brokers(instance.port()).await?.contains(&id) {
            bail!("it is not one of the brokers yet");
        }
        kafka_wire::gives_producer_ids(instance.port()).await
    }
}
