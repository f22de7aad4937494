//! QEMU's monitor: JSON, a line a message, over a Unix socket (QMP, `docs/interop/qmp-spec.txt`).

use crate::error::Fault;
use serde_json::{Value, json};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// QEMU answers at once unless it hangs; a host with every core busy needs some of this.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection in command mode.
#[derive(Debug)]
pub struct Monitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
    next_id: u64,
    events: Vec<String>,
}

impl Monitor {
    /// Connects and negotiates. The socket must be there already.
    pub async fn connect(socket: &Path) -> Result<Self, Fault> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(Fault::io(format!("connect to {}", socket.display())))?;
        let (reader, out) = stream.into_split();
        let mut monitor = Self { lines: BufReader::new(reader).lines(), out, next_id: 0, events: Vec::new() };
        let greeting = monitor.receive().await?;
        if greeting.get("QMP").is_none() {
            return Err(Fault::Monitor(format!("expected a greeting, got {greeting}")));
        }
        monitor.execute("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// `running`, `paused`, `guest-panicked`, `shutdown` and so on.
    pub async fn status(&mut self) -> Result<String, Fault> {
        let answer = self.execute("query-status").await?;
        let status = answer.get("status").and_then(Value::as_str);
        status
            .map(str::to_owned)
            .ok_or_else(|| Fault::Monitor(format!("query-status without a status: {answer}")))
    }

    /// Reset button.
    pub async fn reset(&mut self) -> Result<(), Fault> {
        self.execute("system_reset").await.map(drop)
    }

    /// Power button: ACPI asks the guest to shut down.
    pub async fn power_down(&mut self) -> Result<(), Fault> {
        self.execute("system_powerdown").await.map(drop)
    }

    /// Freezes the virtual CPUs.
    pub async fn stop(&mut self) -> Result<(), Fault> {
        self.execute("stop").await.map(drop)
    }

    /// Thaws them.
    pub async fn resume(&mut self) -> Result<(), Fault> {
        self.execute("cont").await.map(drop)
    }

    /// Plugs the network cable in, or pulls it; `device` is an id of the command line.
    pub async fn set_link(&mut self, device: &str, up: bool) -> Result<(), Fault> {
        self.execute_with("set_link", Some(json!({ "name": device, "up": up }))).await.map(drop)
    }

    /// Ends QEMU.
    pub async fn quit(&mut self) -> Result<(), Fault> {
        self.execute("quit").await.map(drop)
    }

    /// Names of the events seen so far (`RESET`, `SHUTDOWN`, …); they are read with the answers.
    pub fn events(&self) -> &[String] {
        &self.events
    }

    async fn execute(&mut self, command: &str) -> Result<Value, Fault> {
        self.execute_with(command, None).await
    }

    async fn execute_with(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, Fault> {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({ "execute": command, "id": id });
        if let Some(arguments) = arguments {
            message["arguments"] = arguments;
        }
        let mut message = message.to_string();
        message.push('\n');
        self.out.write_all(message.as_bytes()).await.map_err(Fault::io(format!("send {command} to QEMU")))?;
        loop {
            let mut answer = self.receive().await?;
            if let Some(event) = answer.get("event").and_then(Value::as_str) {
                self.events.push(event.to_owned());
            } else if answer.get("id").and_then(Value::as_u64) == Some(id) {
                return match answer.get_mut("return") {
                    Some(value) => Ok(value.take()),
                    None => Err(Fault::Monitor(format!("{command} was refused: {}", describe(&answer)))),
                };
            }
        }
    }

    async fn receive(&mut self) -> Result<Value, Fault> {
        let line = timeout(ANSWER, self.lines.next_line())
            .await
            .map_err(|_| Fault::Monitor(format!("no answer within {} s", ANSWER.as_secs())))?
            .map_err(Fault::io("read from QEMU's monitor"))?
            .ok_or_else(|| Fault::Monitor("QEMU closed the connection".to_owned()))?;
        serde_json::from_str(&line).map_err(|error| Fault::Monitor(format!("not JSON ({error}): {line}")))
    }
}

fn describe(answer: &Value) -> String {
    let text = answer.pointer("/error/desc").and_then(Value::as_str);
    text.map_or_else(|| answer.to_string(), str::to_owned)
}
