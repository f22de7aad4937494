//! A plugin that does as a test wants, and writes down what it was told.

use crate::support::until;
use cairn_nri::{
    api::{
        ConfigureResponse, ContainerAdjustment, ContainerRequest, CreateContainerResponse, Empty, PodRequest,
        RegisterPluginRequest, SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest,
        UpdateContainersResponse,
    },
    connection::{Connection, Request},
    event::{Events, RUNTIME_SERVICE},
    message::Status,
    session::{Role, code},
};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::UnixStream;

/// Makes an adjustment, or says no.
pub(crate) type Adjust = Box<dyn FnMut(&ContainerRequest) -> Result<ContainerAdjustment, String> + Send>;

#[derive(Default)]
struct Seen {
    /// `Method id`, in order.
    told: Vec<String>,
    /// Ids in Synchronize.
    synchronized: Option<Vec<String>>,
}

pub(crate) struct Plugin {
    connection: Connection,
    seen: Arc<Mutex<Seen>>,
}

impl Plugin {
    /// Connects, and returns once it has been synchronized.
    pub(crate) async fn connect(socket: &Path, name: &str, adjust: Adjust) -> Self {
        let (connection, mut calls) =
            Connection::open(UnixStream::connect(socket).await.unwrap(), Role::Plugin).unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut adjust = adjust;
            while let Some(call) = calls.recv().await {
                answer(call, &noted, &mut adjust).await;
            }
        });
        let wanted =
            RegisterPluginRequest { plugin_name: name.into(), plugin_idx: "10".into(), ..Default::default() };
        let limit = Duration::from_secs(10);
        let registered = connection.call::<Empty>(RUNTIME_SERVICE, "RegisterPlugin", &wanted, limit).await;
        registered.unwrap();
        let plugin = Self { connection, seen };
        plugin.until(|seen| seen.synchronized.is_some()).await;
        plugin
    }

    async fn until(&self, done: impl Fn(&Seen) -> bool) {
        until(
            async || done(&self.seen.lock().unwrap()).then_some(()),
            || format!("told so far: {:?}", self.told()),
        )
        .await;
    }

    /// Waits until something was told.
    pub(crate) async fn wait_for(&self, what: &str) {
        self.until(|seen| seen.told.iter().any(|told| told == what)).await;
    }

    pub(crate) fn told(&self) -> Vec<String> {
        self.seen.lock().unwrap().told.clone()
    }

    pub(crate) fn synchronized(&self) -> Vec<String> {
        self.seen.lock().unwrap().synchronized.clone().unwrap_or_default()
    }

    pub(crate) async fn update(&self, request: UpdateContainersRequest) -> UpdateContainersResponse {
        let limit = Duration::from_secs(10);
        self.connection.call(RUNTIME_SERVICE, "UpdateContainers", &request, limit).await.unwrap()
    }

    pub(crate) fn leave(&self) {
        self.connection.close();
    }
}

async fn answer(call: Request, seen: &Mutex<Seen>, adjust: &mut Adjust) {
    let method = call.method().to_owned();
    let note = |id: String| seen.lock().unwrap().told.push(format!("{method} {id}"));
    match method.as_str() {
        "Configure" => call.answer(Ok(ConfigureResponse { events: Events::ALL.mask() })).await,
        "Synchronize" => {
            let page: SynchronizeRequest = call.message().unwrap();
            let ids = page.pods.iter().map(|pod| pod.id.clone());
            let ids = ids.chain(page.containers.iter().map(|container| container.id.clone())).collect();
            // It is asked for more only after the answer.
            call.answer(Ok(SynchronizeResponse::default())).await;
            seen.lock().unwrap().synchronized = Some(ids);
        }
        "CreateContainer" => {
            let request: ContainerRequest = call.message().unwrap();
            note(request.container.as_ref().unwrap().id.clone());
            let answer = adjust(&request)
                .map(|adjust| CreateContainerResponse { adjust: Some(adjust), ..Default::default() })
                .map_err(|text| Status::new(code::UNKNOWN, text));
            call.answer(answer).await;
        }
        "ValidateContainerAdjustment" => call.answer(Ok(Empty {})).await,
        _ => {
            let (request, pod) = (call.message::<ContainerRequest>().ok(), call.message::<PodRequest>().ok());
            let id = request.and_then(|request| request.container).map(|container| container.id);
            note(id.or_else(|| Some(pod?.pod?.id)).unwrap_or_default());
            call.answer(Ok(Empty {})).await;
        }
    }
}
