//! The CRI calls before a stream: what cannot be is refused here, where the answer has a code, and ids are made whole.

use super::super::{Runtime, RuntimeError};
use cairn_contract::cri;
use cairn_streaming::{Attach, Exec, PortForward, Request};

impl Runtime {
    /// What CRI's Exec asks for.
    pub(in crate::runtime) fn prepare_exec(
        &self,
        request: cri::ExecRequest,
    ) -> Result<Request, RuntimeError> {
        let cri::ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr } = request;
        check_streams(&container_id, tty, [stdin, stdout, stderr])?;
        if command.is_empty() {
            return Err(RuntimeError::Invalid("there is no command to run".to_owned()));
        }
        let container = self.running(&container_id)?.id;
        Ok(Request::Exec(Exec { container, command, tty, stdin, stdout, stderr }))
    }

    /// What CRI's Attach asks for.
    pub(in crate::runtime) fn prepare_attach(
        &self,
        request: &cri::AttachRequest,
    ) -> Result<Request, RuntimeError> {
        let &cri::AttachRequest { ref container_id, tty, stdin, stdout, stderr } = request;
        check_streams(container_id, tty, [stdin, stdout, stderr])?;
        let container = self.running(container_id)?.id;
        Ok(Request::Attach(Attach { container, tty, stdin, stdout, stderr }))
    }

    /// What CRI's PortForward asks for.
    pub(in crate::runtime) fn prepare_port_forward(
        &self,
        request: &cri::PortForwardRequest,
    ) -> Result<Request, RuntimeError> {
        if request.pod_sandbox_id.is_empty() {
            return Err(RuntimeError::Invalid("the request has no pod_sandbox_id".to_owned()));
        }
        let port = |&port: &i32| match u16::try_from(port) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(RuntimeError::Invalid(format!("{port} is not a port"))),
        };
        let ports = request.port.iter().map(port).collect::<Result<_, _>>()?;
        let (sandbox, _) = self.forwardable(&request.pod_sandbox_id)?;
        Ok(Request::PortForward(PortForward { sandbox, ports }))
    }
}

/// As the kubelet's own checks have it.
fn check_streams(container: &str, tty: bool, streams: [bool; 3]) -> Result<(), RuntimeError> {
    let invalid = |text: &str| Err(RuntimeError::Invalid(text.to_owned()));
    let [_, _, stderr] = streams;
    if container.is_empty() {
        return invalid("the request has no container_id");
    }
    if tty && stderr {
        return invalid("tty and stderr cannot both be asked for: a terminal has one output");
    }
    if !streams.contains(&true) {
        return invalid("none of stdin, stdout and stderr is asked for");
    }
    Ok(())
}
