//! A caller's deadline, the `grpc-timeout` header, kept in gRPC's own terms.
//!
//! tonic ends a call that is late with CANCELLED, but the protocol's word is DEADLINE_EXCEEDED, and a kubelet or critest
//! takes the two for different things. Its timer runs around this layer's, which is set first and so goes off first.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    Status,
    codegen::http::{HeaderMap, Request, Response},
};
use tower::{Layer, Service};

/// Puts a [`Deadline`] around a service.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deadlines;

/// Ends calls at their callers' deadlines.
#[derive(Debug, Clone)]
pub struct Deadline<S>(S);

impl<S> Layer<S> for Deadlines {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline(inner)
    }
}

impl<S, Q, A> Service<Request<Q>> for Deadline<S>
where
    S: Service<Request<Q>, Response = Response<A>>,
    S::Future: Send + 'static,
    A: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        // Set now, not when the future is first polled: see above.
        let late = limit(request.headers()).map(tokio::time::sleep);
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(late) = late else { return answer.await };
            tokio::select! {
                biased;
                answer = answer => answer,
                () = late => Ok(Status::deadline_exceeded("the caller's deadline has passed").into_http()),
            }
        })
    }
}

/// At most eight digits and a unit.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::BoxFuture};
    use std::convert::Infallible;

    /// Answers after so long.
    struct Slow(Duration);

    impl Service<Request<()>> for Slow {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            tokio::time::sleep(self.0).map(|()| Ok(Response::new("done".to_owned()))).boxed()
        }
    }

    async fn status(slow: Duration, timeout: &str) -> Option<String> {
        let request = Request::builder().header("grpc-timeout", timeout).body(()).unwrap();
        let answer = Deadlines.layer(Slow(slow)).call(request).await.unwrap();
        answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn who_is_late_is_told_so() {
        let hour = Duration::from_secs(3600);
        assert_eq!(status(hour, "1m").await.as_deref(), Some("4"));
        assert_eq!(status(hour, "1n").await.as_deref(), Some("4"));
        assert_eq!(status(Duration::from_millis(1), "1H").await, None);
        assert_eq!(status(Duration::from_millis(1), "nonsense").await, None);
    }

    #[test]
    fn timeouts_as_the_protocol_writes_them() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            limit(&headers)
        };
        assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("5u"), Some(Duration::from_micros(5)));
        for bad in ["", "S", "5", "-5S", "5s", "123456789S", "5 S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
