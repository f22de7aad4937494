//! CRI's ImageService, translated: messages to calls, errors to gRPC codes.

use super::{Image, ImageError, ImageService, ImageSource, auth::PullSecret, heap, reference::Reference};
use crate::traces;
use cairn_contract::cri;
use futures::stream;
use oci_spec::image::ImageConfiguration;
use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tonic::{Request, Response, Status, codegen::BoxStream};

/// Images in one message of a stream.
const PAGE: usize = 64;

/// The gRPC face of an [`ImageService`].
#[derive(Debug, Clone)]
pub struct ImageServer(ImageService);

impl ImageServer {
    /// Serves `service`.
    pub fn new(service: ImageService) -> Self {
        Self(service)
    }

    fn matching(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>, Status> {
        let spec = filter.and_then(|filter| filter.image);
        default_handler(spec.as_ref())?;
        Ok(match spec.map(|spec| spec.image).filter(|name| !name.is_empty()) {
            None => self.0.list().iter().map(|image| message(image)).collect(),
            Some(name) => self.0.resolve(&name).iter().map(|image| message(image)).collect(),
        })
    }
}

#[tonic::async_trait]
impl cri::image_service_server::ImageService for ImageServer {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        Ok(Response::new(cri::ListImagesResponse { images: self.matching(request.into_inner().filter)? }))
    }

    async fn stream_images(
        &self,
        request: Request<cri::StreamImagesRequest>,
    ) -> Result<Response<BoxStream<cri::StreamImagesResponse>>, Status> {
        let images = self.matching(request.into_inner().filter)?;
        let pages: Vec<_> =
            images.chunks(PAGE).map(|page| Ok(cri::StreamImagesResponse { images: page.to_vec() })).collect();
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.image)?;
        traces::note(traces::IMAGE, &name);
        // An image that is not there is an answer, not an error: the kubelet pulls then.
        let Some(image) = self.0.resolve(&name) else {
            return Ok(Response::new(cri::ImageStatusResponse::default()));
        };
        let info = if request.verbose { verbose(&self.0, &image).await? } else { HashMap::new() };
        Ok(Response::new(cri::ImageStatusResponse { image: Some(message(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.image)?;
        traces::note(traces::IMAGE, &name);
        let reference: Reference = name.parse().map_err(|error| status(&ImageError::Reference(error)))?;
        let secret = match &request.auth {
            None => None,
            Some(auth) => PullSecret::from_cri(auth).map_err(|error| {
                Status::invalid_argument(format!("{reference}: the pull secret's {error}"))
            })?,
        };
        let pulled = self.0.pull(&name, secret).await;
        drop(tokio::task::spawn_blocking(heap::give_back));
        let image = pulled.map_err(|error| status(&error))?;
        Ok(Response::new(cri::PullImageResponse { image_ref: image.id.to_string() }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = name(request.into_inner().image)?;
        traces::note(traces::IMAGE, &name);
        self.0.remove(&name).await.map_err(|error| status(&error))?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let usage = self.0.fs_info();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let usage = cri::FilesystemUsage {
            timestamp: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: usage.path.display().to_string() }),
            used_bytes: Some(cri::UInt64Value { value: usage.used_bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes_used }),
        };
        // Containers' writable layers are on the same file system.
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}

/// Images are the same for every runtime handler, but there is only the default one.
fn default_handler(spec: Option<&cri::ImageSpec>) -> Result<(), Status> {
    match spec.map_or("", |spec| spec.runtime_handler.as_str()) {
        "" => Ok(()),
        other => Err(Status::invalid_argument(format!(
            "no runtime handler `{other}`: this runtime has only the default one"
        ))),
    }
}

/// What an image is called; annotations are whoever's they are and choose nothing.
fn name(spec: Option<cri::ImageSpec>) -> Result<String, Status> {
    default_handler(spec.as_ref())?;
    spec.map(|spec| spec.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Status::invalid_argument("the request names no image"))
}

/// The user that an image runs as, by number or else by name: the kubelet wants to know whether it is root.
pub(super) fn user_of(config: &ImageConfiguration) -> (Option<i64>, String) {
    let user = config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or_default();
    // `user[:group]`
    let user = user.split(':').next().unwrap_or_default();
    match user.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn message(image: &Image) -> cri::Image {
    let (uid, username) = user_of(&image.config);
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        username,
        uid: uid.map(|value| cri::Int64Value { value }),
        spec: Some(cri::ImageSpec {
            image: image.id.to_string(),
            annotations: image.annotations.clone().into_iter().collect(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// `crictl inspecti`: configuration, manifests and where the layers are, as JSON under `info`.
async fn verbose(service: &ImageService, image: &Arc<Image>) -> Result<HashMap<String, String>, Status> {
    let source = match image.source {
        ImageSource::Baked => "baked",
        ImageSource::Pulled => "pulled",
    };
    let inner = Arc::clone(&service.inner);
    let id = image.id;
    let manifests = tokio::task::spawn_blocking(move || {
        let content = inner.content_of(&id).into_iter().filter(|digest| *digest != id);
        content
            .filter_map(|digest| {
                let document: serde_json::Value =
                    serde_json::from_slice(&inner.read_content(digest).ok()?).ok()?;
                Some((digest.to_string(), document))
            })
            .collect::<serde_json::Map<_, _>>()
    })
    .await
    .map_err(|error| Status::internal(error.to_string()))?;
    let info = serde_json::json!({
        "imageSpec": image.config,
        "source": source,
        "layers": service.layers(image),
        "manifests": manifests,
    });
    Ok(HashMap::from([("info".to_owned(), info.to_string())]))
}

/// The code that tells the kubelet, and a person, whose turn it is.
fn status(error: &ImageError) -> Status {
    let message = error.to_string();
    match error {
        ImageError::Reference(_) => Status::invalid_argument(message),
        ImageError::NotFound { .. } => Status::not_found(message),
        ImageError::Denied { .. } => Status::permission_denied(message),
        ImageError::Unavailable { .. } => Status::unavailable(message),
        ImageError::Stalled { .. } => Status::deadline_exceeded(message),
        ImageError::Mismatch { .. } => Status::data_loss(message),
        ImageError::Pinned(_) | ImageError::InUse(_) | ImageError::Hosts(_) | ImageError::Keyring(_) => {
            Status::failed_precondition(message)
        }
        ImageError::Unpack { source, .. }
            if matches!(**source, super::unpack::UnpackError::NoSpace { .. }) =>
        {
            Status::resource_exhausted(message)
        }
        ImageError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            Status::resource_exhausted(message)
        }
        ImageError::Manifest { .. } | ImageError::Unpack { .. } => Status::unknown(message),
        ImageError::Interrupted(_) => Status::aborted(message),
        ImageError::Baked(_) | ImageError::Io { .. } => Status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::digest::Sha256Digest;
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};
    use std::collections::BTreeMap;

    fn image(user: &str) -> Image {
        let config = ConfigBuilder::default().user(user).build().unwrap();
        Image {
            id: Sha256Digest::new([7; 32]),
            repo_tags: vec!["r.example/app:1".into()],
            repo_digests: Vec::new(),
            size: 5,
            config: ImageConfigurationBuilder::default().config(config).build().unwrap(),
            layers: Vec::new(),
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            pinned: true,
            source: ImageSource::Baked,
        }
    }

    #[test]
    fn an_image_is_told_with_its_user_and_annotations() {
        let told = message(&image("1000:5"));
        assert_eq!((told.uid.map(|uid| uid.value), told.username.as_str()), (Some(1000), ""));
        assert!(told.pinned && told.size == 5 && told.repo_tags == ["r.example/app:1"]);
        let spec = told.spec.unwrap();
        assert_eq!((spec.image, spec.annotations["a"].as_str()), (told.id, "b"));
        let told = message(&image("web:logs"));
        assert_eq!((told.uid, told.username.as_str()), (None, "web"));
    }

    #[tokio::test]
    async fn an_unknown_runtime_handler_is_refused() {
        use cri::image_service_server::ImageService as _;
        let base = tempfile::tempdir().unwrap();
        let config = cairn_contract::runtime::RuntimeConfig {
            state: base.path().join("state"),
            baked_images: base.path().join("baked"),
            ..Default::default()
        };
        let server = ImageServer::new(ImageService::open(&config).await.unwrap());
        let image = cri::ImageSpec {
            image: "r.example/app:1".into(),
            runtime_handler: "other".into(),
            ..Default::default()
        };
        let image = || Some(image.clone());
        let filter = || Some(cri::ImageFilter { image: image() });
        let pull = cri::PullImageRequest { image: image(), ..Default::default() };
        let status = cri::ImageStatusRequest { image: image(), ..Default::default() };
        for refusal in [
            server.pull_image(Request::new(pull)).await.map(drop),
            server.image_status(Request::new(status)).await.map(drop),
            server.remove_image(Request::new(cri::RemoveImageRequest { image: image() })).await.map(drop),
            server.list_images(Request::new(cri::ListImagesRequest { filter: filter() })).await.map(drop),
            server.stream_images(Request::new(cri::StreamImagesRequest { filter: filter() })).await.map(drop),
        ] {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
            assert!(refusal.message().contains("`other`"), "{refusal}");
        }
    }
}
