//! Clients of the CRI socket.

use cairn_contract::cri::image_service_client::ImageServiceClient;
use cairn_contract::cri::runtime_service_client::RuntimeServiceClient;
use cairn_contract::cri::{RuntimeStatus, StatusRequest};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Longest answer to a question that costs the runtime nothing.
const QUICK: Duration = Duration::from_secs(10);

/// Both services over one connection, made when first used and again when it breaks.
#[derive(Debug, Clone)]
pub struct Cri {
    /// Sandboxes and containers.
    pub runtime: RuntimeServiceClient<Channel>,
    /// Images.
    pub images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client of the socket at `path`. Must be called inside a tokio runtime.
    pub fn new(path: PathBuf) -> Self {
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The URI is never resolved: it only fills the `:authority` header.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) }
    }

    /// Asks whether runtime and network are ready. `Ok` is good, `Err` says what is missing.
    pub async fn readiness(&self) -> Result<(), String> {
        let mut request = tonic::Request::new(StatusRequest { verbose: false });
        request.set_timeout(QUICK);
        let mut client = self.runtime.clone();
        match tokio::time::timeout(QUICK, client.status(request)).await {
            Ok(Ok(response)) => judge(response.into_inner().status.unwrap_or_default()),
            Ok(Err(status)) => Err(format!("the runtime does not answer: {}", status.message())),
            Err(_) => Err(format!("the runtime does not answer within {} s", QUICK.as_secs())),
        }
    }
}

/// Both conditions of CRI must be there and true.
fn judge(status: RuntimeStatus) -> Result<(), String> {
    for kind in ["RuntimeReady", "NetworkReady"] {
        match status.conditions.iter().find(|condition| condition.r#type == kind) {
            None => return Err(format!("the runtime does not report {kind}")),
            Some(found) if !found.status => {
                return Err(format!("{kind} is false: {} {}", found.reason, found.message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::cri::RuntimeCondition;

    #[test]
    fn both_conditions_are_needed() {
        let condition =
            |kind: &str, status| RuntimeCondition { r#type: kind.into(), status, ..Default::default() };
        let status = |conditions| RuntimeStatus { conditions };
        assert!(
            judge(status(vec![condition("RuntimeReady", true), condition("NetworkReady", true)])).is_ok()
        );
        assert!(judge(status(vec![condition("RuntimeReady", true)])).unwrap_err().contains("NetworkReady"));
        let unready = judge(status(vec![condition("RuntimeReady", true), condition("NetworkReady", false)]));
        assert!(unready.unwrap_err().contains("is false"));
    }
}
