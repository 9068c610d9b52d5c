//! Corrupts a broker's log, and writes records that no producer library would send.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::kafka::KafkaServer;

impl KafkaServer {
    /// Returns the path and the contents of a partition's first segment.
    fn log_of(&self, topic: &str, partition: i32) -> Result<(PathBuf, Vec<u8>)> {
        let folder = self.data_dir().join(format!("{topic}-{partition}"));
        let path = folder.join("00000000000000000000.log");
        let log = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok((path, log))
    }

    /// Flips a bit at the first occurrence of these bytes in the first segment of a partition's
    /// log. The broker serves the changed batch as it is, and only its checksum reveals the
    /// corruption.
    pub fn garble(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<()> {
        let (path, log) = self.log_of(topic, partition)?;
        let at = log
            .windows(bytes.len())
            .position(|window| window == bytes)
            .context("the log has no such bytes")?;
        OpenOptions::new()
            .write(true)
            .open(&path)?
            .write_all_at(&[log[at] ^ 1], at as u64)?;
        Ok(())
    }

    /// Whether these bytes occur in the first segment of a partition's log.
    pub fn log_contains(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<bool> {
        let (_, log) = self.log_of(topic, partition)?;
        Ok(log.windows(bytes.len()).any(|window| window == bytes))
    }

    /// Turns the first record with these bytes into one that Kafka accepts and librdkafka cannot
    /// parse: the length of its key becomes -2, and the checksum of the batch is correct. The batch
    /// must not be compressed.
    pub fn malform(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<()> {
        let (path, mut log) = self.log_of(topic, partition)?;
        let wanted = log
            .windows(bytes.len())
            .position(|window| window == bytes)
            .context("the log has no such bytes")?;
        let mut begin = 0;
        let end = loop {
            let length = log
                .get(begin + 8..begin + 12)
                .context("the log ends within a batch")?;
            let end = begin + 12 + u32::from_be_bytes(length.try_into()?) as usize;
            if wanted < end {
                break end;
            }
            begin = end;
        };
        let mut at = begin + RECORDS;
        let key = loop {
            let length = varint(&log, &mut at)?;
            let record_end = at + usize::try_from(length)?;
            at += 1;
            // Skips the timestamp delta and the offset delta.
            varint(&log, &mut at)?;
            varint(&log, &mut at)?;
            if wanted < record_end {
                break at;
            }
            at = record_end;
        };
        anyhow::ensure!(log[key] < 0x80, "the key has 64 bytes or more");
        log[key] = 3;
        let checksum = crc32c(&log[begin + CHECKED..end]);
        let file = OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&[3], key as u64)?;
        file.write_all_at(&checksum.to_be_bytes(), (begin + CHECKED - 4) as u64)?;
        Ok(())
    }
}

/// Offsets in a batch: the first byte covered by the checksum, and the first record.
const CHECKED: usize = 21;
const RECORDS: usize = 61;

fn varint(bytes: &[u8], at: &mut usize) -> Result<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).context("the log ends within a number")?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0x82f6_3b78
        } else {
            crc >> 1
        }
    };
    !bytes
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
