//! Spans on their way out: a queue that never waits, and a task that empties it in batches.
//!
//! A collector that is gone or slow costs the spans that do not fit, which are counted; of that the log says one word an
//! hour. Sizes and times are those of OpenTelemetry's batch processor, whose own implementation neither tells how
//! many spans it dropped nor does without a thread.

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use std::{
    fmt::Display,
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// Spans that wait, at most; a span is about 1 KiB.
pub(super) const WAITING: usize = 2048;
/// Spans that leave together, at most.
pub(super) const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const DELAY: Duration = Duration::from_secs(5);
/// Longest the collector may take for a batch.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two words in the log about spans that are lost.
pub(super) const QUIET: Duration = Duration::from_secs(3600);

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// Where spans go when they have ended.
#[derive(Debug)]
pub(super) struct Queue {
    /// `None` once no more are taken.
    spans: Mutex<Option<mpsc::Sender<SpanData>>>,
    counts: Arc<Counts>,
}

impl Queue {
    pub(super) fn new() -> (Self, mpsc::Receiver<SpanData>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { spans: Mutex::new(Some(sender)), counts: Arc::default() }, receiver)
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.as_ref().is_none_or(|spans| spans.try_send(span).is_err()) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

/// Sends what is queued until the queue has come to its end.
pub(super) async fn run(
    mut spans: mpsc::Receiver<SpanData>,
    exporter: impl SpanExporter,
    counts: Arc<Counts>,
    collector: impl Display,
) {
    let mut loss = Loss::default();
    while let Some(batch) = gather(&mut spans).await {
        let outcome = send(&exporter, batch, &counts).await;
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if loss.is_worth_a_word(dropped, Instant::now()) {
            let reason = outcome.err().unwrap_or_else(|| "it takes them too slowly".to_owned());
            tracing::warn!(
                "spans for the collector of traces at {collector} are lost, {dropped} by now: {reason}; \
                 cairn_cri_spans_dropped_total counts on"
            );
        }
    }
}

/// What has been said of spans that were lost.
#[derive(Debug, Default)]
pub(super) struct Loss {
    dropped: u64,
    said: Option<Instant>,
}

impl Loss {
    /// Whether so many are more than at the last look, and the log has heard nothing of it for long.
    pub(super) fn is_worth_a_word(&mut self, dropped: u64, now: Instant) -> bool {
        let more = mem::replace(&mut self.dropped, dropped) < dropped;
        let word = more && self.said.is_none_or(|said| now - said > QUIET);
        if word {
            self.said = Some(now);
        }
        word
    }
}

/// The next spans; `None` at the end.
async fn gather(spans: &mut mpsc::Receiver<SpanData>) -> Option<Vec<SpanData>> {
    let mut batch = Vec::new();
    if spans.recv_many(&mut batch, BATCH).await == 0 {
        return None;
    }
    let others = async {
        loop {
            let room = BATCH - batch.len();
            if room == 0 || spans.recv_many(&mut batch, room).await == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = others => {}
        () = sleep(DELAY) => {}
    }
    Some(batch)
}

async fn send(exporter: &impl SpanExporter, batch: Vec<SpanData>, counts: &Counts) -> Result<(), String> {
    let count = batch.len() as u64;
    let sent = match timeout(PATIENCE, exporter.export(batch)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    let counter = if sent.is_ok() { &counts.exported } else { &counts.dropped };
    counter.fetch_add(count, Ordering::Relaxed);
    sent
}
