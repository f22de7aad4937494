//! How often each call was made, how long it took, and how it failed. Only calls that a service has are counted, so
//! there are few names.

use std::{
    collections::BTreeMap,
    fmt::Write,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tonic::codegen::{Service, http};
use tower::Layer;

/// Upper bounds of the histogram's buckets, seconds: from a list to a pull of a large image.
const BOUNDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// What was counted. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Before every metric's name, such as `cairn_cri`.
    prefix: &'static str,
    /// Whose calls they are, in the metrics' descriptions.
    interface: &'static str,
    counted: Arc<Mutex<BTreeMap<String, Operation>>>,
}

#[derive(Debug, Default)]
struct Operation {
    /// Calls in each bucket, and beyond the last.
    buckets: [u64; BOUNDS.len() + 1],
    seconds: f64,
    /// Failures by gRPC code.
    failures: BTreeMap<String, u64>,
}

impl Operations {
    /// Nothing counted yet. `prefix` is before every metric's name; `interface` says whose calls they are.
    pub fn new(prefix: &'static str, interface: &'static str) -> Self {
        Self { prefix, interface, counted: Arc::default() }
    }

    /// Counts a call; `code` is its gRPC status if it failed.
    pub fn note(&self, name: &str, took: Duration, code: Option<&str>) {
        let mut operations = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let operation = operations.entry(name.to_owned()).or_default();
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS.len());
        operation.buckets[bucket] += 1;
        operation.seconds += seconds;
        if let Some(code) = code {
            *operation.failures.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// Writes them in Prometheus' text format.
    pub fn render(&self, text: &mut String) {
        let operations = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let (prefix, interface) = (self.prefix, self.interface);
        let name = format!("{prefix}_operation_duration_seconds");
        let _ = writeln!(
            text,
            "# HELP {name} Duration of {interface} calls until their answer, or their stream, began."
        );
        let _ = writeln!(text, "# TYPE {name} histogram");
        for (operation, held) in operations.iter() {
            let mut sum = 0;
            let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(held.buckets) {
                sum += count;
                let _ = writeln!(text, "{name}_bucket{{operation=\"{operation}\",le=\"{bound}\"}} {sum}");
            }
            let _ = writeln!(text, "{name}_sum{{operation=\"{operation}\"}} {}", held.seconds);
            let _ = writeln!(text, "{name}_count{{operation=\"{operation}\"}} {sum}");
        }
        let name = format!("{prefix}_operation_errors_total");
        let _ = writeln!(
            text,
            "# HELP {name} {interface} calls that failed, by gRPC status code.\n# TYPE {name} counter"
        );
        for (operation, held) in operations.iter() {
            for (code, count) in &held.failures {
                let _ = writeln!(text, "{name}{{operation=\"{operation}\",code=\"{code}\"}} {count}");
            }
        }
    }
}

/// Counts every call of a gRPC server.
#[derive(Debug, Clone)]
pub struct Observe(pub Operations);

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed { inner, operations: self.0.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
    operations: Operations,
}

impl<S, Q, A> Service<http::Request<Q>> for Observed<S>
where
    S: Service<http::Request<Q>, Response = http::Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        let (operations, began) = (self.operations.clone(), Instant::now());
        Box::pin(async move {
            let answer = answer.await?;
            // An error without a body has its status among the headers.
            let status = answer.headers().get("grpc-status").and_then(|status| status.to_str().ok());
            let failure = status.filter(|status| *status != "0");
            // A path that no service has would grow the table at the client's will.
            if failure != Some("12") {
                let name = path.rsplit('/').next().unwrap_or_default();
                operations.note(name, began.elapsed(), failure);
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let operations = Operations::new("cairn_cri", "CRI");
        operations.note("ListContainers", Duration::from_millis(2), None);
        operations.note("ListContainers", Duration::from_secs(2), Some("5"));
        operations.note("ListContainers", Duration::from_secs(2000), None);
        let mut text = String::new();
        operations.render(&mut text);
        for line in [
            "cairn_cri_operation_duration_seconds_bucket{operation=\"ListContainers\",le=\"0.001\"} 0",
            "cairn_cri_operation_duration_seconds_bucket{operation=\"ListContainers\",le=\"0.005\"} 1",
            "cairn_cri_operation_duration_seconds_bucket{operation=\"ListContainers\",le=\"5\"} 2",
            "cairn_cri_operation_duration_seconds_bucket{operation=\"ListContainers\",le=\"+Inf\"} 3",
            "cairn_cri_operation_duration_seconds_count{operation=\"ListContainers\"} 3",
            "cairn_cri_operation_errors_total{operation=\"ListContainers\",code=\"5\"} 1",
        ] {
            assert!(text.lines().any(|held| held == line), "{line} is not in\n{text}");
        }
    }
}
