//! OpenTelemetry traces: what a call took its time for, told to a collector over OTLP/gRPC.
//!
//! A call is a span, a child of its caller's if the caller sent a W3C `traceparent` (the kubelet does); its caller also decides
//! whether it is recorded, and for calls without a caller's span a share of them is. What takes time inside is a
//! [`step`]: a span below the one that is current. The current span is OpenTelemetry's own context, which follows a future
//! through its polls and goes with spawned work that is [`carried`]. Without a recorded call all of this does nothing, and
//! with traces off no call is recorded. The log knows nothing of spans.
//!
//! Spans that have ended wait in a bounded [queue](export) and leave in batches. Nothing waits for the collector.

mod call;
mod export;

pub use call::{TraceCalls, Traced};

use crate::message::shortened;
use cairn_contract::runtime::PerMillion;
use export::{Counts, Queue};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{FutureExt, SpanBuilder, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _},
};
use std::{
    fmt::{Display, Write},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

/// Attribute: id of a sandbox, as containerd has it.
pub(crate) const SANDBOX: &str = "sandbox.id";
/// Attribute: id of a container (semantic conventions).
pub(crate) const CONTAINER: &str = "container.id";
/// Attribute: an image's reference (semantic conventions).
pub(crate) const IMAGE: &str = "container.image.name";

/// How long the spans that wait may take to leave at the daemon's end.
const FLUSH: Duration = Duration::from_secs(3);

/// An attribute of a span.
type Attribute<'a> = (&'static str, &'a (dyn Display + Sync));

/// Traces that are on.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    calls: TraceCalls,
    counts: Arc<Counts>,
    export: JoinHandle<()>,
}

/// What was sent and what was not; cheap to clone.
#[derive(Debug, Clone)]
pub struct Delivered(Arc<Counts>);

impl Traces {
    /// Sends spans to `collector` from now on; `share` of the calls whose caller has no span is recorded. The collector
    /// need not be there.
    ///
    /// # Errors
    /// When the environment has settings of OpenTelemetry's that make no sense.
    pub fn open(collector: SocketAddr, share: PerMillion) -> Result<Self, ExporterBuildError> {
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{collector}"))
            .with_timeout(export::PATIENCE)
            .build()?;
        let resource = resource();
        exporter.set_resource(&resource);
        let (queue, spans) = Queue::new();
        let counts = queue.counts();
        let (provider, tracer) = tracer(queue, share, resource);
        let export = tokio::spawn(export::run(spans, exporter, Arc::clone(&counts), collector));
        tracing::info!(%collector, "traces");
        Ok(Self { provider, calls: TraceCalls::new(tracer), counts, export })
    }

    /// Makes a span of each call of a server.
    pub fn layer(&self) -> TraceCalls {
        self.calls.clone()
    }

    /// For the metrics.
    pub fn delivered(&self) -> Delivered {
        Delivered(Arc::clone(&self.counts))
    }

    /// Sends what waits, if that takes no longer than a moment.
    pub async fn close(self) {
        // No span ends in the queue any more, so the export comes to its end.
        let _ = self.provider.shutdown();
        if timeout(FLUSH, self.export).await.is_err() {
            tracing::warn!("the last spans were not taken within {} s", FLUSH.as_secs());
        }
    }
}

impl Delivered {
    /// Writes the counters in Prometheus' text format.
    pub fn render(&self, text: &mut String) {
        for (name, what, count) in [
            ("cairn_cri_spans_exported_total", "Spans that the collector of traces took.", &self.0.exported),
            (
                "cairn_cri_spans_dropped_total",
                "Spans that were lost: it was gone or too slow.",
                &self.0.dropped,
            ),
        ] {
            let count = count.load(Ordering::Relaxed);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {what}\n# TYPE {name} counter\n{name} {count}");
        }
    }
}

/// Who the spans are from.
fn resource() -> Resource {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = [
        KeyValue::new("service.name", "cairn-cri"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", node),
    ];
    Resource::builder_empty().with_attributes(attributes).build()
}

fn tracer(queue: Queue, share: PerMillion, resource: Resource) -> (SdkTracerProvider, SdkTracer) {
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share.ratio())));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue)
        .with_sampler(sampler)
        .with_resource(resource)
        .build();
    let scope = InstrumentationScope::builder("cairn-cri").with_version(env!("CARGO_PKG_VERSION")).build();
    let tracer = provider.tracer_with_scope(scope);
    (provider, tracer)
}

/// Work that goes on by itself, on behalf of the span that is current now.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> + use<F> {
    work.with_current_context()
}

/// Work that is a span of its own, with its error if it fails.
pub(crate) fn step<T, E, F>(
    name: &'static str,
    attributes: &[Attribute<'_>],
    work: F,
) -> impl Future<Output = F::Output> + use<T, E, F>
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let span = begin(name, attributes);
    // Else it would be part of this future twice, and so on outwards.
    let work = Box::pin(work);
    async move {
        let Some(span) = span else { return work.await };
        let result = work.with_context(span.clone()).await;
        end(&span, &result);
        result
    }
}

/// [`step`], for work that does not wait.
pub(crate) fn step_at_once<T, E: Display>(
    name: &'static str,
    attributes: &[Attribute<'_>],
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let Some(span) = begin(name, attributes) else { return work() };
    let result = {
        let _current = span.clone().attach();
        work()
    };
    end(&span, &result);
    result
}

/// Adds to the span that is current.
pub(crate) fn note(key: &'static str, value: &(dyn Display + Sync)) {
    Context::map_current(|context| {
        if recorded(context) {
            context.span().set_attribute(attribute(&(key, value)));
        }
    });
}

/// Says that what the current span stands for has failed.
pub(crate) fn fail(reason: &str) {
    Context::map_current(|context| {
        if recorded(context) {
            context.span().set_status(Status::error(shortened(reason)));
        }
    });
}

/// A span below the current one, if that is recorded.
fn begin(name: &'static str, attributes: &[Attribute<'_>]) -> Option<Context> {
    Context::map_current(|context| {
        let tracer = context.get::<SdkTracer>().filter(|_| recorded(context))?;
        let span = SpanBuilder::from_name(name).with_attributes(attributes.iter().map(attribute));
        Some(context.with_span(tracer.build_with_context(span, context)))
    })
}

fn end<T, E: Display>(span: &Context, result: &Result<T, E>) {
    if let Err(error) = result {
        span.span().set_status(Status::error(shortened(&error.to_string())));
    }
    span.span().end();
}

fn recorded(context: &Context) -> bool {
    context.has_active_span() && context.span().span_context().is_sampled()
}

/// What others wrote is cut: spans wait in memory.
fn attribute((key, value): &Attribute<'_>) -> KeyValue {
    KeyValue::new(*key, shortened(&value.to_string()))
}

#[cfg(test)]
mod tests;
