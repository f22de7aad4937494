//! A span for each call, as a layer of the gRPC server.

use super::{attribute, shortened};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{FutureExt, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracer};
use std::{pin::Pin, task};
use tonic::{
    Code,
    codegen::{Service, http},
};
use tower::Layer;

/// Makes spans of the calls of a gRPC server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TraceCalls {
    tracer: SdkTracer,
    /// Has the tracer, for steps.
    outside: Context,
}

impl TraceCalls {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self { outside: Context::new().with_value(tracer.clone()), tracer }
    }

    /// The span of a call, below its caller's.
    fn begin<Q>(&self, request: &http::Request<Q>) -> Context {
        let caller = Headers(request.headers());
        let caller = TraceContextPropagator::new().extract_with_context(&self.outside, &caller);
        let name = request.uri().path().trim_start_matches('/');
        let (service, method) = name.rsplit_once('/').unwrap_or(("", name));
        let attributes: [super::Attribute<'_>; 3] =
            [("rpc.system", &"grpc"), ("rpc.service", &service), ("rpc.method", &method)];
        let span = SpanBuilder::from_name(shortened(name))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes.iter().map(attribute));
        caller.with_span(self.tracer.build_with_context(span, &caller))
    }
}

/// What the caller sent along.
struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Notes how the call went. The answer of one that streams has no status yet when it begins.
fn end(call: &Context, headers: &http::HeaderMap) {
    let span = call.span();
    let status = tonic::Status::from_header_map(headers);
    let code = status.as_ref().map_or(Code::Ok, tonic::Status::code);
    span.set_attribute(KeyValue::new("rpc.grpc.status_code", i64::from(i32::from(code))));
    if let Some(status) = status.filter(|_| is_fault(code)) {
        span.set_status(Status::error(shortened(status.message())));
    }
    span.end();
}

/// Whether it is the server's failure (semantic conventions for gRPC): what a client asks in vain is none.
fn is_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

impl<S> Layer<S> for TraceCalls {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner, calls: self.clone() }
    }
}

/// A service whose calls are spans.
#[derive(Debug, Clone)]
pub struct Traced<S> {
    inner: S,
    calls: TraceCalls,
}

impl<S, Q, A> Service<http::Request<Q>> for Traced<S>
where
    S: Service<http::Request<Q>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let call = self.calls.begin(&request);
        let answer = self.inner.call(request).with_context(call.clone());
        Box::pin(async move {
            let answer = answer.await?;
            end(&call, answer.headers());
            Ok(answer)
        })
    }
}
