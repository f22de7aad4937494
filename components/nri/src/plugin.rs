//! One plugin: how it registers, and how it is asked.

use crate::{
    api::{
        ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, PodSandbox,
        RegisterPluginRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
    },
    connection::{CallError, Connection, Request},
    event::{Events, PLUGIN_SERVICE, RUNTIME_SERVICE},
    message::Status,
    serve::Settings,
    session::code,
    ttrpc,
};
use prost::Message;
use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// Room that a page of pods and containers leaves for what is around it.
const PAGE_SLACK: usize = 64 << 10;

/// A plugin's name with its index, `10-name`. Plugins are asked in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) index: String,
    pub(crate) base: String,
}

impl Name {
    /// From the two that it is made of.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(index: &str, base: &str) -> Result<Self, String> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("plugin index `{index}` is not two digits"));
        }
        let odd = |c: char| !c.is_ascii_alphanumeric() && !"-_.+".contains(c);
        if base.is_empty() || base.contains(odd) {
            return Err(format!(
                "plugin name `{base}` is empty or has other characters than letters, digits and -_.+"
            ));
        }
        Ok(Self { index: index.to_owned(), base: base.to_owned() })
    }

    /// From a file's name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn of_file(name: &str) -> Result<Self, String> {
        let (index, base) =
            name.split_once('-').ok_or_else(|| format!("`{name}` is not of the form 10-name"))?;
        Self::new(index, base)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.index, self.base)
    }
}

/// A plugin that did not become one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("it did not register within {0:?}")]
    Late(Duration),
    #[error("it went away before it had registered")]
    Gone,
    #[error("{0}")]
    Name(String),
    #[error("{step}: {error}")]
    Call { step: &'static str, error: CallError },
    #[error("it subscribes to events that do not exist: {0:#x}")]
    Events(u32),
    #[error("it does not understand that there are more pods and containers than fit into a message")]
    Pages,
    #[error("a pod or container is described in {0} bytes, more than fit into a message")]
    Long(usize),
}

/// A plugin that is configured.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) name: Name,
    events: Events,
    connection: Connection,
    limit: Duration,
    /// For taking in what there is, which may be much.
    patience: Duration,
    /// It has told us by an event that it knows StateChange only.
    warned: AtomicBool,
}

impl Plugin {
    /// Waits for a plugin to register, and configures it. One that the runtime has started has a name already.
    pub(crate) async fn register(
        connection: Connection,
        calls: &mut mpsc::Receiver<Request>,
        given: Option<Name>,
        config: String,
        settings: &Settings,
    ) -> Result<Self, RegisterError> {
        let patience = settings.registration_timeout;
        let request = timeout(patience, calls.recv()).await.map_err(|_| RegisterError::Late(patience))?;
        let request = request.ok_or(RegisterError::Gone)?;
        let name = match (registered_name(&request), given) {
            (Ok(_), Some(given)) => given,
            (Ok(name), None) => name,
            (Err(reason), _) => {
                request.answer::<Empty>(Err(Status::new(code::INVALID_ARGUMENT, reason.clone()))).await;
                return Err(RegisterError::Name(reason));
            }
        };
        request.answer(Ok(Empty {})).await;
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let configure = ConfigureRequest {
            config,
            runtime_name: settings.runtime_name.clone(),
            runtime_version: settings.runtime_version.clone(),
            registration_timeout: milliseconds(settings.registration_timeout),
            request_timeout: milliseconds(settings.request_timeout),
            nri_version: NRI_VERSION.to_owned(),
        };
        let limit = settings.request_timeout;
        let configured = connection.call(PLUGIN_SERVICE, "Configure", &configure, limit).await;
        let configured: ConfigureResponse =
            configured.map_err(|error| RegisterError::Call { step: "Configure", error })?;
        let events = Events::subscribed(configured.events).map_err(RegisterError::Events)?;
        Ok(Self { name, events, connection, limit, patience, warned: AtomicBool::new(false) })
    }

    /// Tells it what there is; what it wants changed.
    pub(crate) async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, RegisterError> {
        for page in pages(pods, containers, ttrpc::LENGTH_LIMIT - PAGE_SLACK).map_err(RegisterError::Long)? {
            let asked = self.connection.call(PLUGIN_SERVICE, "Synchronize", &page, self.patience).await;
            let answer: SynchronizeResponse =
                asked.map_err(|error| RegisterError::Call { step: "Synchronize", error })?;
            match (page.more, answer.more) {
                (false, _) => return Ok(answer.update),
                (true, true) if answer.update.is_empty() => {}
                (true, _) => return Err(RegisterError::Pages),
            }
        }
        Ok(Vec::new())
    }

    /// Whether it wants to be told.
    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events.contains(event)
    }

    /// Whether it is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Lets it go.
    pub(crate) fn close(&self) {
        self.connection.close();
    }

    /// Asks it. `None` when it does not want to be asked, or has just been cut off.
    ///
    /// # Errors
    /// What it objects.
    pub(crate) async fn ask<M: Message + Default>(
        &self,
        event: Event,
        request: &impl Message,
    ) -> Result<Option<M>, CallError> {
        if !self.wants(event) || self.is_closed() {
            return Ok(None);
        }
        let asked = self.connection.call(PLUGIN_SERVICE, event.method(), request, self.limit).await;
        self.judge(event, asked)
    }

    /// Tells it something that has no answer.
    ///
    /// # Errors
    /// What it objects.
    pub(crate) async fn tell(
        &self,
        event: Event,
        request: &impl Message,
        news: &News<'_>,
    ) -> Result<(), CallError> {
        match self.ask::<Empty>(event, request).await {
            Err(error) if error.is_unimplemented() && event.had_no_method() => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    tracing::info!(plugin = %self.name, "an old plugin: it is told of events by StateChange");
                }
                let change = StateChangeEvent {
                    event: event.into(),
                    pod: Some(news.pod.clone()),
                    container: news.container.cloned(),
                };
                let told =
                    self.connection.call::<Empty>(PLUGIN_SERVICE, "StateChange", &change, self.limit).await;
                self.judge(event, told).map(drop)
            }
            result => result.map(drop),
        }
    }

    /// Cuts off a plugin that is of no use any more, and passes on what one objects that is.
    fn judge<M>(&self, event: Event, asked: Result<M, CallError>) -> Result<Option<M>, CallError> {
        match asked {
            Ok(answer) => Ok(Some(answer)),
            Err(error @ (CallError::Refused(_) | CallError::TooLong(_))) => Err(error),
            Err(error) => {
                tracing::error!(plugin = %self.name, "cut off at {}: {error}", event.method());
                self.close();
                Ok(None)
            }
        }
    }

    /// Says good-bye. It need not answer.
    pub(crate) async fn shut_down(&self) {
        let patience = self.limit.min(Duration::from_secs(1));
        let _ = self.connection.call::<Empty>(PLUGIN_SERVICE, "Shutdown", &Empty {}, patience).await;
        self.close();
    }
}

/// What happened, for plugins that are told by StateChange.
pub(crate) struct News<'a> {
    pub(crate) pod: &'a PodSandbox,
    pub(crate) container: Option<&'a Container>,
}

/// The version of the interface that this is, as plugins are told.
const NRI_VERSION: &str = "v0.12.0";

fn registered_name(request: &Request) -> Result<Name, String> {
    if (request.service(), request.method()) != (RUNTIME_SERVICE, "RegisterPlugin") {
        return Err(format!("{} comes before RegisterPlugin", request.method()));
    }
    let wanted: RegisterPluginRequest = request.message().map_err(|status| status.message)?;
    Name::new(&wanted.plugin_idx, &wanted.plugin_name)
}

/// Pods and containers in messages of at most `limit` bytes, all but the last marked so. A bigger pod or container gives its size.
fn pages(
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    limit: usize,
) -> Result<Vec<SynchronizeRequest>, usize> {
    /// Tag and length around an entry.
    const AROUND: usize = 6;
    let mut all = vec![SynchronizeRequest::default()];
    let mut room = limit;
    let mut place = |size: usize| -> Result<bool, usize> {
        let size = size + AROUND;
        if size > limit {
            return Err(size);
        }
        let fits = size <= room;
        room = if fits { room } else { limit } - size;
        Ok(fits)
    };
    let turn = |all: &mut Vec<SynchronizeRequest>| {
        if let Some(last) = all.last_mut() {
            last.more = true;
        }
        all.push(SynchronizeRequest::default());
    };
    for pod in pods {
        if !place(pod.encoded_len())? {
            turn(&mut all);
        }
        all.last_mut().into_iter().for_each(|page| page.pods.push(pod.clone()));
    }
    for container in containers {
        if !place(container.encoded_len())? {
            turn(&mut all);
        }
        all.last_mut().into_iter().for_each(|page| page.containers.push(container.clone()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_index_and_a_base() {
        assert_eq!(Name::of_file("10-a-b").unwrap().to_string(), "10-a-b");
        assert!(Name::of_file("05-z").unwrap() < Name::of_file("10-a").unwrap());
        for bad in ["1-a", "a", "ab-c", "10-", "10-a b", "100-a"] {
            assert!(Name::of_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_have_all_in_order_and_fit() {
        let pod = |number: usize| PodSandbox { id: format!("{number:0100}"), ..Default::default() };
        let container = |number: usize| Container { id: format!("{number:0100}"), ..Default::default() };
        let (pods, containers): (Vec<_>, Vec<_>) =
            ((0..25).map(pod).collect(), (0..17).map(container).collect());
        let pages = pages(pods.clone(), containers.clone(), 1000).unwrap();
        assert!(pages.len() > 4 && pages.iter().all(|page| page.encoded_len() <= 1010));
        assert!(pages.iter().rev().skip(1).all(|page| page.more) && !pages.last().unwrap().more);
        assert_eq!(pages.iter().flat_map(|page| page.pods.clone()).collect::<Vec<_>>(), pods);
        assert_eq!(pages.iter().flat_map(|page| page.containers.clone()).collect::<Vec<_>>(), containers);
        assert!(super::pages(vec![pod(1)], Vec::new(), 50).is_err());
        assert_eq!(super::pages(Vec::new(), Vec::new(), 50).unwrap().len(), 1, "even nothing is told");
    }
}
