//! What plugin and daemon say to each other: one request and one answer a connection, each a JSON document. The request
//! ends where the plugin stops sending; a plugin that goes away before it has its answer wants none.

use crate::protocol::{
    error::{CniError, Code},
    request::{Environment, Request},
    result::CniResult,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// An operation, as the runtime asked for it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call {
    environment: Environment,
    config: Value,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reply {
    /// Well; of ADD with addresses and routes.
    Result(CniResult),
    /// Not.
    Error(CniError),
}

impl Call {
    /// The daemon has another working directory, so the namespace's path is made absolute.
    pub(super) fn of(request: &Request) -> Result<Self, CniError> {
        let absolute =
            |path: &PathBuf| std::path::absolute(path).map_err(|e| CniError::io("finding", path, &e));
        let netns = request.netns.as_ref().map(absolute).transpose()?;
        let netns = netns.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let args: Vec<String> = request.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let environment = Environment {
            command: request.command.name().to_owned(),
            container_id: request.attachment.container_id.clone(),
            netns,
            ifname: request.attachment.ifname.clone(),
            args: args.join(";"),
            path: std::env::join_paths(&request.path).unwrap_or_default().to_string_lossy().into_owned(),
            netns_override: false,
        };
        Ok(Self { environment, config: request.config.clone() })
    }

    /// Checks it as the plugin did.
    pub(super) fn request(&self) -> Result<Request, CniError> {
        Request::parse(&self.environment, self.config.to_string().into_bytes())
    }

    /// Has the daemon at `socket` do it.
    pub(super) fn send(&self, socket: &Path) -> Result<CniResult, CniError> {
        let failed = |error: io::Error| {
            CniError::internal(format!("error dialing DHCP daemon at {}: {error}", socket.display()))
                .details("it is `cairn-cni dhcp daemon`, or cairn-cni-dhcp.socket of systemd")
        };
        let mut stream = UnixStream::connect(socket).map_err(failed)?;
        let mut answer = Vec::new();
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|bytes| stream.write_all(&bytes))
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .and_then(|()| stream.read_to_end(&mut answer))
            .map_err(failed)?;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Result(result)) => Ok(result),
            Ok(Reply::Error(error)) => Err(error),
            Err(error) => Err(CniError::new(
                Code::Decoding,
                format!("the DHCP daemon at {} gives no answer that makes sense: {error}", socket.display()),
            )),
        }
    }
}
