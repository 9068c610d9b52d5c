//! The offsets of the topic of claims.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use firstcome_shared::kafka::{self, KafkaSettings, Logs};
use parking_lot::Mutex;
use rdkafka::consumer::BaseConsumer;

/// Maximum wait for one answer about the topic.
const ANSWER: Duration = Duration::from_secs(5);

/// Reads the topic's offsets with one client, and never its messages.
#[derive(Clone)]
pub struct Topic {
    pub settings: KafkaSettings,
    /// `None` while a read uses it. A read that hangs keeps it, and the next one creates another.
    client: Arc<Mutex<Option<BaseConsumer>>>,
}

impl Topic {
    pub fn new(settings: KafkaSettings) -> Self {
        let client = Arc::default();
        Self { settings, client }
    }

    /// Reads the offsets of all partitions.
    pub async fn logs(&self) -> anyhow::Result<Logs> {
        let topic = self.clone();
        let read = tokio::task::spawn_blocking(move || topic.read());
        // librdkafka measures its limits by the host's clock, which may be set back.
        match tokio::time::timeout(3 * ANSWER, read).await {
            Ok(read) => read?,
            Err(_) => Err(anyhow!("Kafka did not answer within {:?}", 3 * ANSWER)),
        }
    }

    fn read(&self) -> anyhow::Result<Logs> {
        let kept = self.client.lock().take();
        if let Some(client) = kept {
            match self.ask(client) {
                Ok(logs) => return Ok(logs),
                // Its connections may have broken since it answered.
                Err(error) => tracing::debug!("a new client reads the topic: {error:#}"),
            }
        }
        self.ask(self.settings.reader().create()?)
    }

    /// Reads the offsets, and keeps the client if it answers.
    fn ask(&self, client: BaseConsumer) -> anyhow::Result<Logs> {
        let name = &self.settings.topic;
        let logs = kafka::logs(&client, name, ANSWER)
            .with_context(|| format!("the topic {name:?} cannot be read"))?;
        anyhow::ensure!(!logs.is_empty(), "the topic {name:?} has no partition");
        self.client.lock().replace(client);
        Ok(logs)
    }
}
