//! The guest channel: what an operator has, and no more.
//!
//! A node has no shell and no SSH; it has a management API over mutual TLS. The harness makes the certificates
//! ([`identity`]), connects through a forwarded port ([`forwarded`]), asks the node itself ([`Guest`]) and reaches
//! its CRI and CSI sockets through the API's tunnel, as a kubelet would ([`pod`], [`volume`]). [`host`] looks at the node from a
//! privileged pod, which is how one inspects such a node in a cluster, too.

pub mod host;
pub mod identity;
pub mod network;
pub mod pod;
pub mod volume;

use crate::{
    error::Fault,
    management::{self, Address, Credentials, Place, tunnel},
    pace::Pace,
    scenario::Stop,
};
use cairn_contract::{
    cri::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
    management::{
        JournalEntry, JournalRequest, PowerAction, PowerRequest, StatusRequest, StatusResponse, TunnelTarget,
        management_client::ManagementClient,
    },
};
use identity::{ClientIdentity, NODE_NAME};
use std::{future::Future, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tonic::{Response, Status, transport::Channel};

/// What most calls may take on the reference machine.
const CALL: Duration = Duration::from_secs(20);
/// Pulls and sandboxes do more.
const LONG_CALL: Duration = Duration::from_secs(60);

/// The node behind a forwarded port on 127.0.0.1. `ca` is the PEM of the CA that signed the node's certificate.
pub fn forwarded(port: u16, ca: &str, client: &ClientIdentity) -> Result<Address, Fault> {
    let credentials = Credentials::from_pem(ca, &client.certificate, &client.key)
        .map_err(|error| Fault::Certificates(error.to_string()))?;
    Ok(Address::new(Place::new("127.0.0.1", port).named(Some(NODE_NAME.to_owned())), credentials))
}

/// A node seen from outside. Clones share the connections, which are made when needed and again after a reboot.
#[derive(Debug, Clone)]
pub struct Guest {
    management: ManagementClient<Channel>,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    pace: Pace,
}

impl Guest {
    /// For the node at `address`; nothing is sent yet.
    pub fn new(address: &Address, pace: Pace) -> Self {
        let management = management::open(address);
        let cri = tunnel::open(management.clone(), TunnelTarget::Cri);
        let runtime = RuntimeServiceClient::new(cri.clone());
        Self { management, runtime, images: ImageServiceClient::new(cri), pace }
    }

    /// How patient its calls are.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Asks until the management API answers.
    pub async fn reached(&self) -> Result<StatusResponse, Stop> {
        let deadline = self.pace.deadline(Duration::from_secs(30));
        loop {
            match self.status().await {
                Ok(status) => return Ok(status),
                Err(error) if !deadline.is_open() => return Err(error),
                Err(_) => sleep(Duration::from_millis(250)).await,
            }
        }
    }

    /// The node's own account of itself.
    pub async fn status(&self) -> Result<StatusResponse, Stop> {
        let mut client = self.management.clone();
        self.call("Status", CALL, async move { client.status(StatusRequest {}).await }).await
    }

    /// The newest `lines` journal entries of `unit` (empty: of all) of this boot.
    pub async fn journal(&self, unit: &str, lines: u64) -> Result<Vec<JournalEntry>, Stop> {
        let mut client = self.management.clone();
        let request = JournalRequest { unit: unit.to_owned(), lines, follow: false, boot: 0 };
        let entries = async move { client.journal(request).await };
        let mut stream = self.call("Journal", CALL, entries).await?;
        let collect = async {
            let mut entries = Vec::new();
            while let Some(entry) = stream.next().await {
                entries.push(entry.map_err(|status| refused("Journal", &status))?);
            }
            Ok(entries)
        };
        match timeout(self.pace.scale(CALL), collect).await {
            Ok(entries) => entries,
            Err(_) => Err(self.overdue("Journal", CALL)),
        }
    }

    /// Asks for an orderly reboot.
    pub async fn reboot(&self) -> Result<(), Stop> {
        let mut client = self.management.clone();
        let request = PowerRequest { action: PowerAction::Reboot.into() };
        let asked = self.call("Power(reboot)", CALL, async move { client.power(request).await }).await;
        asked.map(drop)
    }

    /// CRI `Version`.
    pub async fn version(&self) -> Result<cri::VersionResponse, Stop> {
        let mut client = self.runtime.clone();
        let request = cri::VersionRequest { version: String::new() };
        self.call("Version", CALL, async move { client.version(request).await }).await
    }

    /// CRI `Status`: the runtime's conditions.
    pub async fn runtime_conditions(&self) -> Result<Vec<cri::RuntimeCondition>, Stop> {
        let mut client = self.runtime.clone();
        let request = cri::StatusRequest { verbose: false };
        let status = self.call("Status (CRI)", CALL, async move { client.status(request).await }).await?;
        Ok(status.status.unwrap_or_default().conditions)
    }

    /// Asks until the runtime answers and is ready.
    pub async fn runtime_ready(&self) -> Result<(), Stop> {
        let deadline = self.pace.deadline(Duration::from_secs(30));
        loop {
            let conditions = self.runtime_conditions().await;
            match conditions {
                Ok(conditions) if !conditions.is_empty() && conditions.iter().all(|c| c.status) => {
                    return Ok(());
                }
                Ok(conditions) if !deadline.is_open() => {
                    return Err(Stop::failed(format!("the runtime did not get ready: {conditions:?}")));
                }
                Err(error) if !deadline.is_open() => return Err(error),
                _ => sleep(Duration::from_millis(250)).await,
            }
        }
    }

    /// Pulls `reference`; returns the image reference that containers are created with.
    pub async fn pull(&self, reference: &str, auth: Option<cri::AuthConfig>) -> Result<String, Stop> {
        let mut client = self.images.clone();
        let request =
            cri::PullImageRequest { image: Some(image_spec(reference)), auth, sandbox_config: None };
        let what = format!("PullImage({reference})");
        let pulled = self.call(&what, LONG_CALL, async move { client.pull_image(request).await }).await?;
        Ok(pulled.image_ref)
    }

    /// What the runtime knows of `reference`.
    pub async fn image(&self, reference: &str) -> Result<Option<cri::Image>, Stop> {
        let mut client = self.images.clone();
        let request = cri::ImageStatusRequest { image: Some(image_spec(reference)), verbose: false };
        let status =
            self.call("ImageStatus", CALL, async move { client.image_status(request).await }).await?;
        Ok(status.image)
    }

    /// Removes `reference`.
    pub async fn remove_image(&self, reference: &str) -> Result<(), Stop> {
        let mut client = self.images.clone();
        let request = cri::RemoveImageRequest { image: Some(image_spec(reference)) };
        let removed = self.call("RemoveImage", CALL, async move { client.remove_image(request).await }).await;
        removed.map(drop)
    }

    /// All pods.
    pub async fn pods(&self) -> Result<Vec<cri::PodSandbox>, Stop> {
        let mut client = self.runtime.clone();
        let request = cri::ListPodSandboxRequest { filter: None };
        let list =
            self.call("ListPodSandbox", CALL, async move { client.list_pod_sandbox(request).await }).await?;
        Ok(list.items)
    }

    /// All containers.
    pub async fn containers(&self) -> Result<Vec<cri::Container>, Stop> {
        let mut client = self.runtime.clone();
        let request = cri::ListContainersRequest { filter: None };
        let list =
            self.call("ListContainers", CALL, async move { client.list_containers(request).await }).await?;
        Ok(list.containers)
    }

    /// Removes every pod and container, for a machine that scenarios share.
    pub async fn sweep(&self) -> Result<(), Stop> {
        for pod in self.pods().await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), Stop> {
        let mut client = self.runtime.clone();
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call("StopPodSandbox", LONG_CALL, async move { client.stop_pod_sandbox(request).await })
            .await
            .map(drop)
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), Stop> {
        let mut client = self.runtime.clone();
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let removed = async move { client.remove_pod_sandbox(request).await };
        self.call("RemovePodSandbox", LONG_CALL, removed).await.map(drop)
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    /// One call with a deadline, its failure in words.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        budget: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Stop> {
        match timeout(self.pace.scale(budget), call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(refused(what, &status)),
            Err(_) => Err(self.overdue(what, budget)),
        }
    }

    fn overdue(&self, what: &str, budget: Duration) -> Stop {
        Stop::failed(format!("{what}: no answer within {:.0} s", self.pace.scale(budget).as_secs_f64()))
    }
}

fn refused(what: &str, status: &Status) -> Stop {
    Stop::failed(format!("{what}: {:?}: {}", status.code(), status.message()))
}

pub(crate) fn image_spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        user_specified_image: reference.to_owned(),
        ..cri::ImageSpec::default()
    }
}
