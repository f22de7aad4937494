//! An iSCSI target on the host: tgt over files, behind one gate for each way that a guest has to it.

use crate::{
    error::{Error, Fault},
    qemu::{ports, program},
    storage::{gate::Gate, server::Server},
};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Name of the one target.
pub const TARGET: &str = "iqn.2026-11.test.cairn:storage";
/// tgt's number for it.
const TARGET_ID: &str = "1";

/// User and secret of CHAP.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    /// User name.
    pub user: &'a str,
    /// Secret.
    pub secret: &'a str,
}

/// A target that runs. Ends when dropped.
#[derive(Debug)]
pub struct IscsiTarget {
    control: Control,
    directory: PathBuf,
    gates: Vec<Gate>,
    _server: Server,
}

/// How tgtd is told what to do.
#[derive(Debug)]
struct Control {
    program: PathBuf,
    /// tgt adds `.0`.
    socket: PathBuf,
}

impl IscsiTarget {
    /// Starts one with its files in `work`, which is made, and so many ways to it.
    pub async fn start(work: &Path, ways: usize) -> Result<Self, Error> {
        let (daemon, client) = (program::find("tgtd", "tgt")?, program::find("tgtadm", "tgt")?);
        std::fs::create_dir_all(work).map_err(Fault::io(format!("make {}", work.display())))?;
        let port = ports::free(1)?[0];
        let control = Control { program: client, socket: work.join("control") };
        let mut command = Command::new(daemon);
        command.arg("-f").arg("--iscsi").arg(format!("portal=127.0.0.1:{port}"));
        command.env(Control::SOCKET, &control.socket);
        let server = Server::start(command, &work.join("tgtd.log"), port).await?;
        let mut gates = Vec::new();
        for _ in 0..ways {
            gates.push(Gate::to(port).await?);
        }
        control.run("target", "new", &["--tid", TARGET_ID, "--targetname", TARGET]).await?;
        control.run("target", "bind", &["--tid", TARGET_ID, "--initiator-address", "ALL"]).await?;
        Ok(Self { control, directory: work.to_owned(), gates, _server: server })
    }

    /// Clients have to know this account from now on.
    pub async fn require(&self, account: Account<'_>) -> Result<(), Fault> {
        self.account(account, &[]).await
    }

    /// The account that the target shows to clients that ask who it is (mutual CHAP).
    pub async fn answer_as(&self, account: Account<'_>) -> Result<(), Fault> {
        self.account(account, &["--outgoing"]).await
    }

    async fn account(&self, Account { user, secret }: Account<'_>, more: &[&str]) -> Result<(), Fault> {
        self.control.run("account", "new", &["--user", user, "--password", secret]).await?;
        let bind = ["--tid", TARGET_ID, "--user", user];
        self.control.run("account", "bind", &[&bind, more].concat()).await.map(drop)
    }

    /// Adds a unit of `size` zero bytes.
    pub async fn add(&self, unit: u32, size: u64) -> Result<(), Fault> {
        let file = self.file(unit);
        resize(&file, size)?;
        let (unit, path) = (unit.to_string(), file.display().to_string());
        self.control
            .run("logicalunit", "new", &["--tid", TARGET_ID, "--lun", &unit, "--backing-store", &path])
            .await
            .map(drop)
    }

    /// Makes a unit larger. It is not there for a moment, so nobody should be using it: stop the machine.
    pub async fn grow(&self, unit: u32, size: u64) -> Result<(), Fault> {
        let file = self.file(unit);
        resize(&file, size)?;
        let unit = unit.to_string();
        for parameter in ["online=0".to_owned(), format!("path={}", file.display()), "online=1".to_owned()] {
            let unit = ["--tid", TARGET_ID, "--lun", &unit, "--params", &parameter];
            self.control.run("logicalunit", "update", &unit).await?;
        }
        Ok(())
    }

    /// Removes a unit with what is in it. Nobody uses it.
    pub async fn remove(&self, unit: u32) -> Result<(), Fault> {
        let number = unit.to_string();
        self.control.run("logicalunit", "delete", &["--tid", TARGET_ID, "--lun", &number]).await?;
        let file = self.file(unit);
        std::fs::remove_file(&file).map_err(Fault::io(format!("remove {}", file.display())))
    }

    /// Makes a unit of zero bytes again, as large as it is. Nobody uses it.
    pub fn blank(&self, unit: u32) -> Result<(), Fault> {
        let file = self.file(unit);
        let size = file.metadata().map_err(Fault::io(format!("look at {}", file.display())))?.len();
        // The same file, which the target holds open.
        resize(&file, 0)?;
        resize(&file, size)
    }

    /// The file behind a unit.
    pub fn file(&self, unit: u32) -> PathBuf {
        self.directory.join(format!("unit-{unit}"))
    }

    /// The ways to it.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// How many sessions clients have.
    pub async fn sessions(&self) -> Result<usize, Fault> {
        let shown = self.control.run("target", "show", &[]).await?;
        Ok(shown.lines().filter(|line| line.trim_start().starts_with("I_T nexus: ")).count())
    }
}

impl Control {
    const SOCKET: &str = "TGT_IPC_SOCKET";

    async fn run(&self, mode: &str, operation: &str, arguments: &[&str]) -> Result<String, Fault> {
        let mut command = Command::new(&self.program);
        command.args(["--lld", "iscsi", "--mode", mode, "--op", operation]).args(arguments);
        command.env(Self::SOCKET, &self.socket).kill_on_drop(true);
        let output = command.output().await.map_err(Fault::io(format!("run {}", self.program.display())))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        Err(Fault::Server(format!("tgtadm {mode} {operation}: {}", message.trim())))
    }
}

fn resize(file: &Path, size: u64) -> Result<(), Fault> {
    let make = || Fault::io(format!("make {}", file.display()));
    // Not truncated: a unit that grows keeps what is in it.
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(file);
    opened.map_err(make())?.set_len(size).map_err(make())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::UserError;

    #[tokio::test]
    async fn units_and_accounts_are_added_and_units_grow() {
        let work = tempfile::tempdir().unwrap();
        let target = match IscsiTarget::start(work.path(), 2).await {
            Ok(target) => target,
            Err(Error::User(UserError::NoProgram { .. })) => {
                return eprintln!("skipped: tgt is not installed");
            }
            Err(error) => panic!("{error}"),
        };
        target.require(Account { user: "node", secret: "twelve-bytes-and-more" }).await.unwrap();
        target.answer_as(Account { user: "target", secret: "other-twelve-bytes" }).await.unwrap();
        target.add(1, 8 << 20).await.unwrap();
        target.grow(1, 16 << 20).await.unwrap();
        let shown = target.control.run("target", "show", &[]).await.unwrap();
        assert!(shown.contains("Size: 17 MB"), "{shown}");
        std::fs::write(target.file(1), "something").unwrap();
        target.blank(1).unwrap();
        assert!(std::fs::read(target.file(1)).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(target.sessions().await.unwrap(), 0);
        for gate in target.gates() {
            tokio::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, gate.port())).await.unwrap();
        }
        assert!(target.add(1, 1 << 20).await.unwrap_err().to_string().contains("logicalunit new"));
        std::fs::write(target.file(1), "something").unwrap();
        target.remove(1).await.unwrap();
        assert!(!target.file(1).exists());
        assert!(target.remove(1).await.is_err());
        target.add(1, 1 << 20).await.unwrap();
        assert!(std::fs::read(target.file(1)).unwrap().iter().all(|byte| *byte == 0));
    }
}
