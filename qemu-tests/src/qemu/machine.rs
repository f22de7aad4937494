//! A running machine.

use super::{
    arguments::{Console, MachineSpec},
    monitor::Monitor,
    process::leash,
    program::Program,
    serial::SerialLog,
};
use crate::error::Fault;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// From `exec` to an answering monitor; seconds only on a host that is very busy.
const START: Duration = Duration::from_secs(60);
/// How often the host ports are chosen anew when somebody else was quicker.
const PORT_ATTEMPTS: usize = 3;

/// QEMU, its monitor and its console. Killed when dropped, and by the kernel when we are killed.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    monitor: Monitor,
    serial: Option<SerialLog>,
    spec: MachineSpec,
    power_on: Instant,
    directory: PathBuf,
}

impl Machine {
    /// Starts a machine with its files in `directory`, which is made: `serial.log`, `qemu.log`, `qemu.args`.
    /// Host ports of `spec.forwards` that are 0 are chosen here.
    pub async fn start(
        program: &Program,
        spec: MachineSpec,
        directory: &Path,
        niceness: i32,
    ) -> Result<Self, Fault> {
        std::fs::create_dir_all(directory).map_err(Fault::io(format!("make {}", directory.display())))?;
        let mut attempt = 1;
        loop {
            let spec = with_ports(spec.clone())?;
            match Self::start_once(program, spec, directory, niceness).await {
                Err(Fault::Qemu(message))
                    if message.contains("host forwarding") && attempt < PORT_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn start_once(
        program: &Program,
        spec: MachineSpec,
        directory: &Path,
        niceness: i32,
    ) -> Result<Self, Fault> {
        let messages = directory.join("qemu.log");
        let log =
            std::fs::File::create(&messages).map_err(Fault::io(format!("write {}", messages.display())))?;
        let arguments = spec.arguments();
        let shown = directory.join("qemu.args");
        std::fs::write(&shown, readable(&program.path, &arguments))
            .map_err(Fault::io(format!("write {}", shown.display())))?;
        let _ = std::fs::remove_file(&spec.monitor);

        let mut command = Command::new(&program.path);
        command.args(&arguments);
        match spec.console {
            Console::Captured => command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log),
            Console::Terminal => command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(log),
        };
        leash(&mut command, niceness);
        let power_on = Instant::now();
        let mut child = command.spawn().map_err(Fault::io(format!("start {}", program.path.display())))?;
        let serial = match child.stdout.take() {
            Some(output) => Some(SerialLog::follow(output, &directory.join("serial.log"), power_on).await?),
            None => None,
        };
        let monitor = connect(&mut child, &spec.monitor, &messages).await?;
        Ok(Self { child, monitor, serial, spec, power_on, directory: directory.to_owned() })
    }

    /// The console; absent when it is on the terminal.
    pub fn serial(&self) -> Option<&SerialLog> {
        self.serial.as_ref()
    }

    /// The monitor.
    pub fn monitor(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// What it is made of, with the ports that were chosen.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// When QEMU was started.
    pub fn power_on(&self) -> Instant {
        self.power_on
    }

    /// Its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The host port that leads to `guest`.
    pub fn port(&self, guest: u16) -> Option<u16> {
        self.spec.forwards.iter().find(|forward| forward.guest == guest).map(|forward| forward.host)
    }

    /// True until QEMU ends.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until QEMU ends.
    pub async fn wait(&mut self) -> Result<(), Fault> {
        self.child.wait().await.map(drop).map_err(Fault::io("wait for QEMU"))
    }

    /// Presses the power button and waits; the plug is pulled when that takes too long.
    pub async fn power_down(&mut self, patience: Duration) {
        if self.monitor.power_down().await.is_err()
            || tokio::time::timeout(patience, self.child.wait()).await.is_err()
        {
            self.kill().await;
        }
    }

    /// Pulls the plug.
    pub async fn kill(&mut self) {
        // Fails when it has ended already, which is what we want.
        let _ = self.child.kill().await;
    }
}

fn with_ports(mut spec: MachineSpec) -> Result<MachineSpec, Fault> {
    let open: Vec<_> = spec.forwards.iter_mut().filter(|forward| forward.host == 0).collect();
    let ports = super::ports::free(open.len())?;
    for (forward, port) in open.into_iter().zip(ports) {
        forward.host = port;
    }
    Ok(spec)
}

async fn connect(child: &mut Child, socket: &Path, messages: &Path) -> Result<Monitor, Fault> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            let text = std::fs::read_to_string(messages).unwrap_or_default();
            return Err(Fault::Qemu(format!("ended at once ({status}): {}", text.trim())));
        }
        // The socket appears before QEMU listens, so a refused connection is as good as none.
        if socket.exists() {
            match Monitor::connect(socket).await {
                Ok(monitor) => return Ok(monitor),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
        if Instant::now() > deadline {
            return Err(Fault::Qemu(format!("its monitor did not open within {} s", START.as_secs())));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The command line as one could paste it into a shell.
fn readable(program: &Path, arguments: &[std::ffi::OsString]) -> String {
    let mut text = program.display().to_string();
    for argument in arguments {
        let argument = argument.to_string_lossy();
        text.push_str(if argument.starts_with('-') { " \\\n  " } else { " " });
        if argument.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=,.:/@%+".contains(&b)) {
            text.push_str(&argument);
        } else {
            text.push_str(&format!("'{}'", argument.replace('\'', r"'\''")));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recorded_command_line_can_be_pasted() {
        let arguments = ["-append", "a b='c'", "-smp", "2"].map(Into::into);
        assert_eq!(
            readable(Path::new("/q"), &arguments),
            "/q \\\n  -append 'a b='\\''c'\\''' \\\n  -smp 2\n"
        );
    }
}
