//! The spans of a written batch.
//!
//! The batch has a separate trace, which links to the message of each sampled claim. Each sampled
//! claim also has a span in its own trace, with its outcome and a link to the batch.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::trace::{self, SpanEnd, SpanKind, TraceContext, TraceSpan, key};

use crate::consume::read::record::Record;
use crate::consume::write::Written;

/// Maximum number of links of a span, OpenTelemetry's default.
const LINKS: usize = 128;

/// Exports the spans, if any message is sampled.
pub(crate) fn batch(
    kafka: &KafkaSettings,
    batch: &[Arc<Record>],
    took: Duration,
    written: &Written,
) {
    if !trace::is_on() {
        return;
    }
    let sampled = || {
        batch
            .iter()
            .filter_map(|one| Some((one, one.trace.filter(|trace| trace.sampled)?)))
    };
    if sampled().next().is_none() {
        return;
    }
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let own = TraceContext::root();
    let Some(span) = process(own, kafka, took) else {
        return;
    };
    span.with(key::MESSAGING_BATCH_MESSAGE_COUNT, number(batch.len()))
        .linked(sampled().take(LINKS).map(|(_, trace)| trace))
        .export(SpanEnd::Fine);
    if let Some(span) =
        TraceSpan::ended_now(own.child(), "INSERT issued_coupons", SpanKind::Client, took)
    {
        span.below(own.span_id)
            .with(key::DB_SYSTEM_NAME, "mysql")
            .with(key::DB_OPERATION_NAME, "INSERT")
            .with(key::DB_COLLECTION_NAME, "issued_coupons")
            .with(key::DB_OPERATION_BATCH_SIZE, number(batch.len()))
            .export(SpanEnd::Fine);
    }
    for (record, trace) in sampled() {
        let Some(span) = process(trace.child(), kafka, took) else {
            return;
        };
        let source = &record.source;
        let refused = written
            .refused_traces
            .get(&(source.partition, source.offset))
            .copied();
        span.below_remote(trace)
            .with(
                key::MESSAGING_DESTINATION_PARTITION_ID,
                source.partition.to_string(),
            )
            .with(key::MESSAGING_KAFKA_OFFSET, source.offset)
            .with(key::OUTCOME, refused.map_or("written", |_| "dead_letter"))
            .linked([own])
            .export(refused.map_or(SpanEnd::Fine, SpanEnd::Failed));
    }
}

fn process(context: TraceContext, kafka: &KafkaSettings, took: Duration) -> Option<TraceSpan> {
    let span = TraceSpan::ended_now(
        context,
        format!("process {}", kafka.topic),
        SpanKind::Consumer,
        took,
    )?;
    Some(
        span.with(key::MESSAGING_SYSTEM, "kafka")
            .with(key::MESSAGING_OPERATION_NAME, "process")
            .with(key::MESSAGING_OPERATION_TYPE, "process")
            .with(key::MESSAGING_DESTINATION_NAME, kafka.topic.clone())
            .with(key::MESSAGING_CONSUMER_GROUP_NAME, kafka.group.clone()),
    )
}
