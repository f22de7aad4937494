//! A whole CSI plugin at one address: the target's controller, and the Node service of a driver that has no controller.
//!
//! In a cluster both would be there, the driver's on each node and the target's somewhere. Who asks one driver for everything, as
//! kubernetes-csi/csi-test does, is given both: the Node service's calls are passed on as they are, and the Identity service
//! answers for the two.

use super::{controller::UnitController, target::IscsiTarget, units::Units};
use crate::error::Fault;
use cairn_contract::csi::{
    self,
    controller_server::ControllerServer,
    identity_client::IdentityClient,
    identity_server::{Identity, IdentityServer},
    node_server,
    plugin_capability::{self, Type, service, volume_expansion},
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{sync::Mutex, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::NamedService,
    transport::{Channel, Server, server::TcpIncoming},
};
use tower::{Service, ServiceExt};

/// A plugin that serves. Ends when dropped.
#[derive(Debug)]
pub struct IscsiPlugin {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    controller: Arc<UnitController>,
    serving: JoinHandle<()>,
}

impl IscsiPlugin {
    /// Serves `target`'s controller and the Node service that is behind `node`. `context` is what volumes' contexts say beside the number of
    /// the unit: how the node finds the target.
    pub fn serve(
        target: Arc<IscsiTarget>,
        context: BTreeMap<String, String>,
        node: Channel,
    ) -> Result<Self, Fault> {
        let fault = || Fault::io("listen on 127.0.0.1");
        let incoming = TcpIncoming::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(fault())?;
        let port = incoming.local_addr().map_err(fault())?.port();
        let controller = Arc::new(UnitController { target, context, units: Mutex::new(Units::default()) });
        let serving = Server::builder()
            .add_service(IdentityServer::new(Composed(IdentityClient::new(node.clone()))))
            .add_service(ControllerServer::from_arc(controller.clone()))
            .add_service(NodeRelay(node))
            .serve_with_incoming(incoming.with_nodelay(Some(true)));
        // It ends with its task.
        let serving = tokio::spawn(async move { drop(serving.await) });
        Ok(Self { port, controller, serving })
    }

    /// Identifiers of the volumes that are there.
    pub async fn volumes(&self) -> Vec<String> {
        self.controller.units.lock().await.ids()
    }

    /// How many volumes were ever made.
    pub async fn made(&self) -> u32 {
        self.controller.units.lock().await.asked()
    }
}

impl Drop for IscsiPlugin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The Identity service of the two.
struct Composed(IdentityClient<Channel>);

#[tonic::async_trait]
impl Identity for Composed {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        self.0.clone().get_plugin_info(request).await
    }

    /// The driver's, and a controller; units grow only while nobody uses them, whatever the driver could do.
    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        let mut answer = self.0.clone().get_plugin_capabilities(request).await?;
        let capabilities = &mut answer.get_mut().capabilities;
        capabilities.retain(|capability| !matches!(capability.r#type, Some(Type::VolumeExpansion(_))));
        let controller = plugin_capability::Service { r#type: service::Type::ControllerService.into() };
        let grows = plugin_capability::VolumeExpansion { r#type: volume_expansion::Type::Offline.into() };
        for kind in [Type::Service(controller), Type::VolumeExpansion(grows)] {
            capabilities.push(csi::PluginCapability { r#type: Some(kind) });
        }
        Ok(answer)
    }

    async fn probe(
        &self,
        request: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        self.0.clone().probe(request).await
    }
}

/// Somebody else's Node service: requests and answers are passed on unread.
#[derive(Clone)]
struct NodeRelay(Channel);

impl NamedService for NodeRelay {
    const NAME: &'static str = node_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for NodeRelay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.0.clone().oneshot(request);
        Box::pin(async move {
            Ok(answer.await.unwrap_or_else(|error| {
                Status::unavailable(format!("the driver's Node service: {error}")).into_http()
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, UserError};
    use csi::{
        controller_client::ControllerClient,
        node_client::NodeClient,
        node_server::{Node, NodeServer},
        volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode},
    };
    use tonic::{Code, transport::Endpoint};

    /// A driver with a node service only.
    struct NodeOnly;

    #[tonic::async_trait]
    impl Identity for NodeOnly {
        async fn get_plugin_capabilities(
            &self,
            _: Request<csi::GetPluginCapabilitiesRequest>,
        ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
            let online = plugin_capability::VolumeExpansion { r#type: volume_expansion::Type::Online.into() };
            let online = csi::PluginCapability { r#type: Some(Type::VolumeExpansion(online)) };
            Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities: vec![online] }))
        }
    }

    #[tonic::async_trait]
    impl Node for NodeOnly {
        async fn node_get_info(
            &self,
            _: Request<csi::NodeGetInfoRequest>,
        ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
            Ok(Response::new(csi::NodeGetInfoResponse { node_id: "seven".to_owned(), ..Default::default() }))
        }

        async fn node_unstage_volume(
            &self,
            request: Request<csi::NodeUnstageVolumeRequest>,
        ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
            Err(Status::not_found(request.into_inner().volume_id))
        }
    }

    fn channel(port: u16) -> Channel {
        Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect_lazy()
    }

    fn driver() -> Channel {
        let incoming = TcpIncoming::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = incoming.local_addr().unwrap().port();
        let server = Server::builder()
            .add_service(IdentityServer::new(NodeOnly))
            .add_service(NodeServer::new(NodeOnly))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        channel(port)
    }

    fn asked(name: &str, required_bytes: i64) -> csi::CreateVolumeRequest {
        csi::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(csi::CapacityRange { required_bytes, limit_bytes: 0 }),
            volume_capabilities: vec![csi::VolumeCapability {
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
                access_type: Some(AccessType::Mount(MountVolume::default())),
            }],
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn units_are_made_and_the_nodes_calls_passed_on() {
        let work = tempfile::tempdir().unwrap();
        let target = match IscsiTarget::start(work.path(), 1).await {
            Ok(target) => Arc::new(target),
            Err(Error::User(UserError::NoProgram { .. })) => {
                return eprintln!("skipped: tgt is not installed");
            }
            Err(error) => panic!("{error}"),
        };
        let context = BTreeMap::from([("iqn".to_owned(), super::super::TARGET.to_owned())]);
        let plugin = IscsiPlugin::serve(target.clone(), context, driver()).unwrap();
        let channel = channel(plugin.port);

        let mut identity = IdentityClient::new(channel.clone());
        let held = identity.get_plugin_capabilities(csi::GetPluginCapabilitiesRequest {}).await.unwrap();
        let held: Vec<Type> = held.into_inner().capabilities.into_iter().filter_map(|c| c.r#type).collect();
        let [Type::Service(service), Type::VolumeExpansion(grows)] = held.as_slice() else {
            panic!("{held:?}")
        };
        assert_eq!(
            (service.r#type(), grows.r#type()),
            (service::Type::ControllerService, volume_expansion::Type::Offline)
        );

        let mut node = NodeClient::new(channel.clone());
        let info = node.node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.node_id, "seven");
        let request = csi::NodeUnstageVolumeRequest { volume_id: "x".to_owned(), ..Default::default() };
        let refused = node.node_unstage_volume(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, "x"));

        let mut controller = ControllerClient::new(channel);
        let made = controller.create_volume(asked("a", 8 << 20)).await.unwrap().into_inner().volume.unwrap();
        assert_eq!((made.capacity_bytes, made.volume_context["lun"].as_str()), (8 << 20, "1"));
        assert_eq!(target.file(1).metadata().unwrap().len(), 8 << 20);
        let again = controller.create_volume(asked("a", 8 << 20)).await.unwrap().into_inner().volume.unwrap();
        assert_eq!(again, made);
        let other = controller.create_volume(asked("a", 9 << 20)).await.unwrap_err();
        assert_eq!(other.code(), Code::AlreadyExists);

        let range = |required_bytes| Some(csi::CapacityRange { required_bytes, limit_bytes: 0 });
        let mut growing = csi::ControllerExpandVolumeRequest {
            volume_id: made.volume_id.clone(),
            capacity_range: range(16 << 20),
            ..Default::default()
        };
        let grown = controller.controller_expand_volume(growing.clone()).await.unwrap().into_inner();
        assert_eq!((grown.capacity_bytes, grown.node_expansion_required), (16 << 20, true));
        assert_eq!(target.file(1).metadata().unwrap().len(), 16 << 20);
        growing.capacity_range = None;
        let refused = controller.controller_expand_volume(growing).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);

        let mut asking = csi::ValidateVolumeCapabilitiesRequest {
            volume_id: made.volume_id.clone(),
            volume_context: made.volume_context.clone(),
            volume_capabilities: asked("", 0).volume_capabilities,
            ..Default::default()
        };
        let judged = controller.validate_volume_capabilities(asking.clone()).await.unwrap().into_inner();
        assert!(judged.confirmed.is_some(), "{judged:?}");
        asking.volume_context.insert("lun".to_owned(), "2".to_owned());
        let judged = controller.validate_volume_capabilities(asking.clone()).await.unwrap().into_inner();
        assert!(judged.confirmed.is_none() && !judged.message.is_empty(), "{judged:?}");

        assert_eq!(plugin.volumes().await, std::slice::from_ref(&made.volume_id));
        let gone = csi::DeleteVolumeRequest { volume_id: made.volume_id.clone(), ..Default::default() };
        for _ in 0..2 {
            controller.delete_volume(gone.clone()).await.unwrap();
        }
        assert!(!target.file(1).exists() && plugin.volumes().await.is_empty());
        let judged = controller.validate_volume_capabilities(asking).await.unwrap_err();
        assert_eq!(judged.code(), Code::NotFound);
        let nameless = controller.delete_volume(csi::DeleteVolumeRequest::default()).await.unwrap_err();
        assert_eq!(nameless.code(), Code::InvalidArgument);
        assert_eq!(plugin.made().await, 1);
    }
}
