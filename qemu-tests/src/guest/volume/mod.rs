//! Volumes, as a kubelet and the sidecars of a controller use them: the driver registers, then its CSI services are
//! called in the order of the specification, at the paths that a kubelet uses.

mod claim;

pub use claim::{Claim, Form, Source};

use super::{CALL, Guest, LONG_CALL, host::Host};
use crate::{
    management::tunnel,
    pace::Pace,
    scenario::{Stop, check, check_equal},
};
use cairn_contract::{
    csi::{
        self, controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient,
        volume_content_source,
    },
    management::TunnelTarget,
    paths,
    pluginregistration::{InfoRequest, RegistrationStatus, registration_client::RegistrationClient},
    storage::BackendKind,
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::sleep;
use tonic::transport::Channel;

/// One of the node's CSI drivers.
#[derive(Debug, Clone)]
pub struct Driver {
    guest: Guest,
    kind: BackendKind,
    identity: IdentityClient<Channel>,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
}

/// A volume that is there.
#[derive(Debug, Clone)]
pub struct Volume {
    driver: Driver,
    claim: Claim,
    /// Its identifier.
    pub id: String,
    /// Its size in bytes.
    pub size: i64,
    context: BTreeMap<String, String>,
}

impl Guest {
    /// The socket of the node's driver for `kind`.
    pub fn driver_channel(&self, kind: BackendKind) -> Channel {
        let target = match kind {
            BackendKind::Local => TunnelTarget::CsiLocal,
            BackendKind::Nfs => TunnelTarget::CsiNfs,
            BackendKind::Iscsi => TunnelTarget::CsiIscsi,
        };
        tunnel::open(self.management.clone(), target)
    }

    /// The node's driver for `kind`.
    pub fn driver(&self, kind: BackendKind) -> Driver {
        let channel = self.driver_channel(kind);
        Driver {
            guest: self.clone(),
            kind,
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel),
        }
    }
}

impl Driver {
    /// Which one.
    pub fn kind(&self) -> BackendKind {
        self.kind
    }

    /// The handshake by which a kubelet takes a driver in: its socket appears, it says who it is and where, it is
    /// told that it is known.
    pub async fn register(&self, host: &Host) -> Result<(), Stop> {
        let socket = self.kind.registration_socket(paths::PLUGINS_REGISTRY.as_ref());
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let deadline = self.guest.pace().deadline(Duration::from_secs(30));
        while !host.list(paths::PLUGINS_REGISTRY).await?.contains(&name) {
            check(deadline.is_open(), || format!("there is no {}", socket.display()))?;
            sleep(Duration::from_millis(250)).await;
        }
        let target = match self.kind {
            BackendKind::Local => TunnelTarget::RegistrationLocal,
            BackendKind::Nfs => TunnelTarget::RegistrationNfs,
            BackendKind::Iscsi => TunnelTarget::RegistrationIscsi,
        };
        let mut client = RegistrationClient::new(tunnel::open(self.guest.management.clone(), target));
        let mut asked = client.clone();
        let info = async move { asked.get_info(InfoRequest {}).await };
        let info = self.guest.call("GetInfo", CALL, info).await?;
        check_equal("the plugin's type", &info.r#type.as_str(), &"CSIPlugin")?;
        check_equal("the driver's name", &info.name.as_str(), &self.kind.driver())?;
        let endpoint = self.kind.socket(paths::CSI_RUN.as_ref());
        check_equal("the endpoint", &info.endpoint, &endpoint.display().to_string())?;
        check(info.supported_versions.iter().any(|version| version.starts_with("1.")), || {
            format!("the versions are {:?}", info.supported_versions)
        })?;
        let status = RegistrationStatus { plugin_registered: true, error: String::new() };
        let told = async move { client.notify_registration_status(status).await };
        self.guest.call("NotifyRegistrationStatus", CALL, told).await.map(drop)
    }

    /// Asks until it says that it is ready.
    pub async fn ready(&self) -> Result<(), Stop> {
        let deadline = self.guest.pace().deadline(Duration::from_secs(30));
        loop {
            let mut client = self.identity.clone();
            let probe = async move { client.probe(csi::ProbeRequest {}).await };
            match self.guest.call("Probe", CALL, probe).await {
                Ok(answer) if answer.ready.is_none_or(|ready| ready) => return Ok(()),
                Err(error) if !deadline.is_open() => return Err(error),
                _ if !deadline.is_open() => return Err(Stop::failed("the driver did not get ready")),
                _ => sleep(Duration::from_millis(250)).await,
            }
        }
    }

    /// The node's name and topology, as the kubelet asks for them once it knows a driver.
    pub async fn node(&self) -> Result<csi::NodeGetInfoResponse, Stop> {
        let mut client = self.node.clone();
        let info = async move { client.node_get_info(csi::NodeGetInfoRequest {}).await };
        self.guest.call("NodeGetInfo", CALL, info).await
    }

    /// Makes a volume.
    pub async fn provision(&self, claim: Claim) -> Result<Volume, Stop> {
        let mut client = self.controller.clone();
        let source = claim.source.clone().map(|source| match source {
            Source::Snapshot(snapshot_id) => {
                volume_content_source::Type::Snapshot(volume_content_source::SnapshotSource { snapshot_id })
            }
            Source::Volume(volume_id) => {
                volume_content_source::Type::Volume(volume_content_source::VolumeSource { volume_id })
            }
        });
        let request = csi::CreateVolumeRequest {
            name: claim.name.clone(),
            capacity_range: Some(csi::CapacityRange { required_bytes: claim.size, limit_bytes: 0 }),
            volume_capabilities: vec![claim.capability()],
            parameters: claim.parameters.clone().into_iter().collect(),
            secrets: claim.secrets.clone().into_iter().collect(),
            volume_content_source: source.map(|kind| csi::VolumeContentSource { r#type: Some(kind) }),
            ..Default::default()
        };
        let made = async move { client.create_volume(request).await };
        let made = self.guest.call("CreateVolume", LONG_CALL, made).await?;
        let made = made.volume.ok_or_else(|| Stop::failed("CreateVolume answered without a volume"))?;
        Ok(Volume {
            driver: self.clone(),
            claim,
            id: made.volume_id,
            size: made.capacity_bytes,
            context: made.volume_context.into_iter().collect(),
        })
    }

    /// A volume that somebody else made: what a persistent volume written by hand says.
    pub fn existing(&self, id: &str, claim: Claim, context: BTreeMap<String, String>) -> Volume {
        Volume { driver: self.clone(), id: id.to_owned(), size: claim.size, claim, context }
    }

    /// Removes a snapshot.
    pub async fn remove_snapshot(&self, snapshot: &csi::Snapshot) -> Result<(), Stop> {
        let mut client = self.controller.clone();
        let request = csi::DeleteSnapshotRequest {
            snapshot_id: snapshot.snapshot_id.clone(),
            secrets: Default::default(),
        };
        let removed = async move { client.delete_snapshot(request).await };
        self.guest.call("DeleteSnapshot", LONG_CALL, removed).await.map(drop)
    }

    /// Identifiers of all volumes it knows.
    pub async fn volumes(&self) -> Result<Vec<String>, Stop> {
        let mut client = self.controller.clone();
        let listed = async move { client.list_volumes(csi::ListVolumesRequest::default()).await };
        let listed = self.guest.call("ListVolumes", CALL, listed).await?;
        Ok(listed.entries.into_iter().filter_map(|entry| Some(entry.volume?.volume_id)).collect())
    }
}

impl Volume {
    /// The same volume for a guest whose connections were made anew.
    pub fn of(&self, driver: &Driver) -> Self {
        Self { driver: driver.clone(), ..self.clone() }
    }

    /// The same volume with another secret.
    pub fn with_secret(&self, key: &str, value: &str) -> Self {
        Self { claim: self.claim.clone().secret(key, value), ..self.clone() }
    }

    /// Where it is staged.
    pub fn staging_path(&self) -> String {
        let (driver, name) = (self.driver.kind.driver(), &self.claim.name);
        match self.claim.form {
            Form::Files(_) => {
                format!("{}/plugins/kubernetes.io/csi/{driver}/{name}/globalmount", paths::KUBELET_STATE)
            }
            Form::Device => {
                format!("{}/plugins/kubernetes.io/csi/volumeDevices/staging/{name}", paths::KUBELET_STATE)
            }
        }
    }

    /// Where it is published for `pod`.
    pub fn target_path(&self, pod: &str) -> String {
        let name = &self.claim.name;
        match self.claim.form {
            Form::Files(_) => {
                format!("{}/pods/{pod}/volumes/kubernetes.io~csi/{name}/mount", paths::KUBELET_STATE)
            }
            Form::Device => {
                format!(
                    "{}/plugins/kubernetes.io/csi/volumeDevices/publish/{name}/{pod}",
                    paths::KUBELET_STATE
                )
            }
        }
    }

    /// Makes it ready on the node; the directory is made by the kubelet.
    pub async fn stage(&self, host: &Host) -> Result<(), Stop> {
        let staging_target_path = self.staging_path();
        host.make_directory(&staging_target_path).await?;
        let mut client = self.driver.node.clone();
        let request = csi::NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path,
            volume_capability: Some(self.claim.capability()),
            secrets: self.claim.secrets.clone().into_iter().collect(),
            volume_context: self.context.clone().into_iter().collect(),
            ..Default::default()
        };
        let staged = async move { client.node_stage_volume(request).await };
        self.driver.guest.call("NodeStageVolume", LONG_CALL, staged).await.map(drop)
    }

    /// Makes it available to `pod`; the path on the node.
    pub async fn publish(&self, host: &Host, pod: &str) -> Result<String, Stop> {
        self.publish_as(host, pod, false).await
    }

    /// The same, for reading only.
    pub async fn publish_read_only(&self, host: &Host, pod: &str) -> Result<String, Stop> {
        self.publish_as(host, pod, true).await
    }

    async fn publish_as(&self, host: &Host, pod: &str, readonly: bool) -> Result<String, Stop> {
        let target_path = self.target_path(pod);
        // The parent is the kubelet's to make, the target the driver's.
        if let Some((parent, _)) = target_path.rsplit_once('/') {
            host.make_directory(parent).await?;
        }
        let mut client = self.driver.node.clone();
        let request = csi::NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging_path(),
            target_path: target_path.clone(),
            volume_capability: Some(self.claim.capability()),
            readonly,
            volume_context: self.context.clone().into_iter().collect(),
            ..Default::default()
        };
        let published = async move { client.node_publish_volume(request).await };
        self.driver.guest.call("NodePublishVolume", LONG_CALL, published).await?;
        Ok(target_path)
    }

    /// Takes it from `pod`.
    pub async fn unpublish(&self, pod: &str) -> Result<(), Stop> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.target_path(pod),
        };
        let unpublished = until_it_is_done(self.driver.guest.pace(), || {
            let (mut client, request) = (self.driver.node.clone(), request.clone());
            async move { client.node_unpublish_volume(request).await }
        });
        self.driver.guest.call("NodeUnpublishVolume", LONG_CALL, unpublished).await.map(drop)
    }

    /// Takes it from the node.
    pub async fn unstage(&self) -> Result<(), Stop> {
        let request = csi::NodeUnstageVolumeRequest {
            volume_id: self.id.clone(),
            staging_target_path: self.staging_path(),
        };
        let unstaged = until_it_is_done(self.driver.guest.pace(), || {
            let (mut client, request) = (self.driver.node.clone(), request.clone());
            async move { client.node_unstage_volume(request).await }
        });
        self.driver.guest.call("NodeUnstageVolume", LONG_CALL, unstaged).await.map(drop)
    }

    /// Makes it larger while `pod` has it; its new size in bytes.
    pub async fn expand(&self, pod: &str, size: i64) -> Result<i64, Stop> {
        let range = Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 });
        let mut client = self.driver.controller.clone();
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: self.id.clone(),
            capacity_range: range,
            secrets: Default::default(),
            volume_capability: Some(self.claim.capability()),
        };
        let expanded = async move { client.controller_expand_volume(request).await };
        let expanded = self.driver.guest.call("ControllerExpandVolume", LONG_CALL, expanded).await?;
        if expanded.node_expansion_required {
            self.expand_on_node(pod, size).await
        } else {
            Ok(expanded.capacity_bytes)
        }
    }

    /// The node's part of the same.
    pub async fn expand_on_node(&self, pod: &str, size: i64) -> Result<i64, Stop> {
        let mut client = self.driver.node.clone();
        let request = csi::NodeExpandVolumeRequest {
            volume_id: self.id.clone(),
            volume_path: self.target_path(pod),
            capacity_range: Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 }),
            staging_target_path: self.staging_path(),
            volume_capability: Some(self.claim.capability()),
            secrets: self.claim.secrets.clone().into_iter().collect(),
        };
        let expanded = async move { client.node_expand_volume(request).await };
        Ok(self.driver.guest.call("NodeExpandVolume", LONG_CALL, expanded).await?.capacity_bytes)
    }

    /// How full it is, and whether it is well.
    pub async fn stats(&self, pod: &str) -> Result<csi::NodeGetVolumeStatsResponse, Stop> {
        let mut client = self.driver.node.clone();
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.id.clone(),
            volume_path: self.target_path(pod),
            staging_target_path: self.staging_path(),
        };
        let stats = async move { client.node_get_volume_stats(request).await };
        self.driver.guest.call("NodeGetVolumeStats", CALL, stats).await
    }

    /// Keeps what it has now.
    pub async fn snapshot(&self, name: &str) -> Result<csi::Snapshot, Stop> {
        let mut client = self.driver.controller.clone();
        let request = csi::CreateSnapshotRequest {
            source_volume_id: self.id.clone(),
            name: name.to_owned(),
            ..Default::default()
        };
        let deadline = self.driver.guest.pace().deadline(Duration::from_secs(60));
        loop {
            let (mut asked, request) = (client.clone(), request.clone());
            let made = async move { asked.create_snapshot(request).await };
            let made = self.driver.guest.call("CreateSnapshot", LONG_CALL, made).await?;
            let made =
                made.snapshot.ok_or_else(|| Stop::failed("CreateSnapshot answered without a snapshot"))?;
            // A copy takes its time; the same call asks how far it is.
            if made.ready_to_use {
                return Ok(made);
            }
            check(deadline.is_open(), || format!("snapshot {name} did not get ready"))?;
            client = self.driver.controller.clone();
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Removes it with all that is in it.
    pub async fn delete(&self) -> Result<(), Stop> {
        let mut client = self.driver.controller.clone();
        let request = csi::DeleteVolumeRequest { volume_id: self.id.clone(), secrets: Default::default() };
        let deleted = async move { client.delete_volume(request).await };
        self.driver.guest.call("DeleteVolume", LONG_CALL, deleted).await.map(drop)
    }
}

/// As the kubelet does: a driver that says "not yet" is asked again.
async fn until_it_is_done<T, A>(pace: Pace, ask: impl Fn() -> A) -> Result<tonic::Response<T>, tonic::Status>
where
    A: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let deadline = pace.deadline(Duration::from_secs(60));
    loop {
        match ask().await {
            Err(status) if status.code() == tonic::Code::Unavailable && deadline.is_open() => {
                sleep(Duration::from_secs(1)).await;
            }
            answer => return answer,
        }
    }
}

/// Fails unless a call was refused for this reason: the name of a gRPC code, or words of the message.
pub fn refused<T>(what: &str, result: Result<T, Stop>, reason: &str) -> Result<(), Stop> {
    match result {
        Ok(_) => Err(Stop::failed(format!("{what} was not refused"))),
        Err(Stop::Failed(message)) if message.contains(reason) => Ok(()),
        Err(Stop::Failed(message)) => Err(Stop::failed(format!("{what}: not `{reason}`, but: {message}"))),
        Err(other) => Err(other),
    }
}
