//! A disk that garbles what a broker has written.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

use crate::kafka::KafkaServer;

impl KafkaServer {
    /// Flips a bit where these bytes stand first in a partition's log. The broker goes on and hands
    /// the batch out as it is: only its checksum tells.
    pub fn garble(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<()> {
        let path = self.data_dir()?.join(format!("{topic}-{partition}")).join("00000000000000000000.log");
        let log = fs::read(&path).with_context(|| path.display().to_string())?;
        let at = log.windows(bytes.len()).position(|window| window == bytes).context("the log has no such bytes")?;
        OpenOptions::new().write(true).open(&path)?.write_all_at(&[log[at] ^ 1], at as u64)?;
        Ok(())
    }
}
