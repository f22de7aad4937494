//! A server program: started with its messages in a file, waited for, ended with its value.

use crate::{error::Fault, qemu::process::leash};
use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Seconds only on a host that is very busy.
const START: Duration = Duration::from_secs(60);

/// A server that takes connections.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with its messages in `log`, and waits until it listens on `port`.
    pub(super) async fn start(mut command: Command, log: &Path, port: u16) -> Result<Self, Fault> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let write = || Fault::io(format!("write {}", log.display()));
        let messages = std::fs::File::create(log).map_err(write())?;
        let errors = messages.try_clone().map_err(write())?;
        command.stdin(Stdio::null()).stdout(messages).stderr(errors);
        leash(&mut command, 0);
        let child = command.spawn().map_err(Fault::io(format!("start {program}")))?;
        let mut server = Self { child, log: log.to_owned() };
        let deadline = Instant::now() + START;
        while TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(server.fault(&program, &format!("ended at once ({status})")));
            }
            if Instant::now() > deadline {
                let late = format!("does not listen on port {port} after {} s", START.as_secs());
                return Err(server.fault(&program, &late));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    fn fault(&self, program: &str, problem: &str) -> Fault {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        Fault::Server(format!("{program} {problem}:\n{tail}"))
    }
}
