use super::*;
use futures::future::{pending, ready};
use opentelemetry::{Value, trace::SpanKind};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    trace::SpanData,
};
use std::{
    convert::Infallible,
    sync::Mutex,
    task::{self, Poll},
};
use tokio::sync::mpsc;
use tonic::codegen::{
    Service,
    http::{Request, Response},
};
use tower::Layer as _;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Answers with what it is made of.
#[derive(Clone)]
struct Server<F>(F);

impl<F: FnOnce() -> W + Clone, W: Future<Output = Response<()>>> Service<Request<()>> for Server<F> {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = futures::future::Map<W, fn(Response<()>) -> Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        futures::FutureExt::map(self.0.clone()(), Ok)
    }
}

fn calls(millionths: u32) -> (TraceCalls, mpsc::Receiver<SpanData>) {
    let (queue, spans) = Queue::new();
    let (_, tracer) = tracer(queue, millionths.try_into().unwrap(), resource());
    (TraceCalls::new(tracer), spans)
}

/// Has a call with this header answered by `work`.
async fn call<W: Future<Output = Response<()>> + Send + 'static>(
    calls: &TraceCalls,
    traceparent: Option<&str>,
    work: impl FnOnce() -> W + Clone,
) {
    let mut request = Request::builder().uri("/runtime.v1.RuntimeService/RunPodSandbox");
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let mut server = calls.layer(Server(work));
    server.call(request.body(()).unwrap()).await.unwrap();
}

fn fine() -> Response<()> {
    Response::new(())
}

fn sampled() -> String {
    format!("00-{TRACE}-{CALLER}-01")
}

fn value(span: &SpanData, key: &str) -> Option<Value> {
    span.attributes.iter().find(|held| held.key.as_str() == key).map(|held| held.value.clone())
}

/// The spans that have ended.
fn ended(spans: &mut mpsc::Receiver<SpanData>) -> Vec<SpanData> {
    std::iter::from_fn(|| spans.try_recv().ok()).collect()
}

#[tokio::test]
async fn the_caller_decides_and_else_the_share() {
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    for (traceparent, millionths, expected) in [
        (Some(sampled()), 0, 1),
        (Some(unsampled.clone()), 0, 0),
        (Some(unsampled), 1_000_000, 0),
        (None, 0, 0),
        (None, 1_000_000, 1),
        // What cannot be read was not said.
        (Some("00-nonsense".to_owned()), 0, 0),
        (Some(format!("00-{TRACE}-0000000000000000-01")), 0, 0),
    ] {
        let (calls, mut spans) = calls(millionths);
        let traceparent = traceparent.as_deref();
        call(&calls, traceparent, || async {
            step("step", &[], ready(Ok::<_, String>(()))).await.unwrap();
            fine()
        })
        .await;
        // The step, too.
        assert_eq!(ended(&mut spans).len(), 2 * expected, "{traceparent:?} of {millionths}");
    }
}

#[tokio::test]
async fn a_call_is_a_child_of_its_callers_and_has_its_steps() {
    let (calls, mut spans) = calls(0);
    call(&calls, Some(&sampled()), || async {
        note(SANDBOX, &"abc");
        let spawned = tokio::spawn(carried(async {
            let failed = step("outer", &[("plugin", &"bridge")], async {
                step_at_once("inner", &[], || Ok::<_, String>(()))?;
                Err::<(), _>("no address".to_owned())
            });
            failed.await
        }));
        assert!(spawned.await.unwrap().is_err());
        fine()
    })
    .await;
    let all = ended(&mut spans);
    let [inner, outer, call] = all.as_slice() else { panic!("{all:#?}") };
    assert_eq!(
        [&inner.name, &outer.name, &call.name],
        ["inner", "outer", "runtime.v1.RuntimeService/RunPodSandbox"]
    );
    for span in [inner, outer, call] {
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
    }
    assert_eq!((call.parent_span_id.to_string().as_str(), call.parent_span_is_remote), (CALLER, true));
    assert_eq!(outer.parent_span_id, call.span_context.span_id());
    assert_eq!(inner.parent_span_id, outer.span_context.span_id());
    assert_eq!((&call.span_kind, &outer.span_kind), (&SpanKind::Server, &SpanKind::Internal));
    for (key, expected) in [
        ("rpc.system", "grpc".into()),
        ("rpc.service", "runtime.v1.RuntimeService".into()),
        ("rpc.method", "RunPodSandbox".into()),
        ("rpc.grpc.status_code", Value::I64(0)),
        (SANDBOX, "abc".into()),
    ] {
        assert_eq!(value(call, key), Some(expected), "{key}");
    }
    assert_eq!(value(outer, "plugin"), Some("bridge".into()));
    assert_eq!((&inner.status, &outer.status), (&Status::Unset, &Status::error("no address")));
}

#[tokio::test]
async fn only_the_servers_failures_are_errors() {
    for (status, expected) in [
        (tonic::Status::not_found("x"), Status::Unset),
        (tonic::Status::internal("a disk"), Status::error("a disk")),
        (tonic::Status::unavailable("a ré"), Status::error("a ré")),
    ] {
        let (calls, mut spans) = calls(1_000_000);
        let code = i64::from(i32::from(status.code()));
        call(&calls, None, || ready(status.into_http())).await;
        let span = ended(&mut spans).pop().unwrap();
        assert_eq!(value(&span, "rpc.grpc.status_code"), Some(Value::I64(code)));
        assert_eq!(span.status, expected);
    }
}

#[tokio::test]
async fn what_a_client_gives_up_is_a_span_all_the_same() {
    let (calls, mut spans) = calls(1_000_000);
    let given_up = timeout(Duration::from_millis(1), call(&calls, None, pending));
    assert!(given_up.await.is_err());
    assert_eq!(ended(&mut spans).len(), 1);
}

#[test]
fn nothing_is_noted_outside_of_a_call() {
    note(SANDBOX, &"abc");
    fail("x");
    assert_eq!(step_at_once("x", &[], || Ok::<_, String>(5)), Ok(5));
}

#[tokio::test]
async fn long_texts_are_cut() {
    let (calls, mut spans) = calls(1_000_000);
    call(&calls, None, || async {
        note(IMAGE, &"x".repeat(100_000));
        fine()
    })
    .await;
    let span = ended(&mut spans).pop().unwrap();
    let image = value(&span, IMAGE).unwrap();
    assert!(image.as_str().len() < 1000);
}

/// A collector of a test's own: remembers how many spans came at once, or does not answer, or refuses.
#[derive(Debug)]
enum Collector {
    Takes(Arc<Mutex<Vec<usize>>>),
    Hangs,
    Refuses,
}

impl opentelemetry_sdk::trace::SpanExporter for Collector {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        match self {
            Self::Takes(batches) => batches.lock().unwrap().push(batch.len()),
            Self::Hangs => pending().await,
            Self::Refuses => return Err(OTelSdkError::InternalFailure("no".to_owned())),
        }
        Ok(())
    }
}

/// The queue after so many calls, with its end and what counts.
async fn filled(count: usize) -> (mpsc::Receiver<SpanData>, SdkTracerProvider, Arc<Counts>) {
    let (queue, spans) = Queue::new();
    let counts = queue.counts();
    let (provider, tracer) = tracer(queue, 1_000_000.try_into().unwrap(), resource());
    let calls = TraceCalls::new(tracer);
    for _ in 0..count {
        call(&calls, None, || ready(fine())).await;
    }
    (spans, provider, counts)
}

fn counted(counts: &Counts) -> (u64, u64) {
    (counts.exported.load(Ordering::Relaxed), counts.dropped.load(Ordering::Relaxed))
}

#[tokio::test]
async fn spans_leave_in_batches_and_the_last_at_the_end() {
    let (spans, provider, counts) = filled(export::BATCH + 5).await;
    provider.shutdown().unwrap();
    let batches = Arc::new(Mutex::new(Vec::new()));
    let collector = Collector::Takes(Arc::clone(&batches));
    export::run(spans, collector, Arc::clone(&counts), "test").await;
    assert_eq!(*batches.lock().unwrap(), [export::BATCH, 5]);
    assert_eq!(counted(&counts), (export::BATCH as u64 + 5, 0));
}

#[tokio::test]
async fn what_does_not_fit_or_is_refused_is_counted() {
    let (spans, provider, counts) = filled(export::WAITING + 7).await;
    assert_eq!(counted(&counts), (0, 7));
    provider.shutdown().unwrap();
    export::run(spans, Collector::Refuses, Arc::clone(&counts), "test").await;
    assert_eq!(counted(&counts), (0, export::WAITING as u64 + 7));
}

#[tokio::test]
async fn a_collector_that_hangs_has_a_bounded_number_of_spans() {
    let (spans, provider, counts) = filled(export::BATCH).await;
    let export = tokio::spawn(export::run(spans, Collector::Hangs, Arc::clone(&counts), "test"));
    let tracer = TraceCalls::new(provider.tracer("again"));
    for _ in 0..2 * export::WAITING {
        call(&tracer, None, || ready(fine())).await;
    }
    let (exported, dropped) = counted(&counts);
    assert_eq!(exported, 0);
    // One batch is with the collector, at most, and the queue is full.
    assert!(dropped >= (export::WAITING - export::BATCH) as u64, "{dropped}");
    export.abort();
}

#[test]
fn a_loss_is_said_once_an_hour() {
    let (mut loss, now) = (export::Loss::default(), tokio::time::Instant::now());
    let later = now + export::QUIET + Duration::from_secs(1);
    for (dropped, at, expected) in
        [(0, now, false), (5, now, true), (9, now, false), (9, later, false), (10, later, true)]
    {
        assert_eq!(loss.is_worth_a_word(dropped, at), expected, "{dropped}");
    }
}
