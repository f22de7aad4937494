//! An NFSv4 server on the host: NFS-Ganesha over a directory.
//!
//! Ganesha opens files by handle (`open_by_handle_at(2)`), which only root may: for anyone else there is none.

use super::server::Server;
use crate::{
    error::{Error, Fault},
    qemu::{ports, program},
    scenario::Stop,
};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Export paths as clients name them.
pub const EXPORT: &str = "/export";
/// The same files, for reading only.
pub const EXPORT_READ_ONLY: &str = "/read-only";

/// The same files, of a server that takes root for nobody, as most do unless they are told otherwise.
pub const EXPORT_SQUASHED: &str = "/squashed";

/// A server that runs. Ends when dropped.
#[derive(Debug)]
pub struct NfsServer {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// What is exported.
    pub directory: PathBuf,
    _server: Server,
}

impl NfsServer {
    /// Starts one with its files in `work`, which is made.
    pub async fn start(work: &Path) -> Result<Self, Stop> {
        if !rustix::process::geteuid().is_root() {
            return Err(Stop::Skipped("NFS-Ganesha opens files by handle, which only root may".to_owned()));
        }
        Ok(Self::start_as_root(work).await?)
    }

    async fn start_as_root(work: &Path) -> Result<Self, Error> {
        let program = program::find("ganesha.nfsd", "nfs-ganesha-vfs")?;
        let (directory, recovery) = (work.join("export"), work.join("recovery"));
        for made in [&directory, &recovery] {
            std::fs::create_dir_all(made).map_err(Fault::io(format!("make {}", made.display())))?;
        }
        let port = ports::free(1)?[0];
        let config = work.join("ganesha.conf");
        std::fs::write(&config, configuration(port, &directory, &recovery))
            .map_err(Fault::io(format!("write {}", config.display())))?;
        let mut command = Command::new(program);
        command.arg("-F").arg("-f").arg(&config).args(["-L", "STDERR"]).arg("-p").arg(work.join("pid"));
        let server = Server::start(command, &work.join("ganesha.log"), port).await?;
        Ok(Self { port, directory, _server: server })
    }
}

/// ganesha-config(8). NFSv4 over TCP alone needs no other port, and numbers for owners need no other service. Of version 4.2
/// Ganesha 4.3 has a part: Linux 6.12 reads zeros from it (READ_PLUS).
fn configuration(port: u16, directory: &Path, recovery: &Path) -> String {
    let (directory, recovery) = (directory.display(), recovery.display());
    let export = |id, pseudo, access, squash| {
        format!(
            "EXPORT {{ Export_Id = {id}; Path = \"{directory}\"; Pseudo = \"{pseudo}\"; Tag = \"{id}\"; Access_Type = {access}; \
             Squash = {squash}; SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}\n"
        )
    };
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         NFSv4 {{ Minor_Versions = 0, 1; Graceless = true; RecoveryBackend = fs; RecoveryRoot = \"{recovery}\"; Only_Numeric_Owners = true; }}\n\
         NFS_KRB5 {{ Active_krb5 = false; }}\n{}{}{}",
        export(1, EXPORT, "RW", "No_Root_Squash"),
        export(2, EXPORT_READ_ONLY, "RO", "No_Root_Squash"),
        export(3, EXPORT_SQUASHED, "RW", "Root_Squash"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_listens_and_ends_with_its_value() {
        let work = tempfile::tempdir().unwrap();
        let server = match NfsServer::start(work.path()).await {
            Ok(server) => server,
            Err(Stop::Skipped(reason)) => return eprintln!("skipped: {reason}"),
            Err(stop) => panic!("{stop:?}"),
        };
        let address = (std::net::Ipv4Addr::LOCALHOST, server.port);
        tokio::net::TcpStream::connect(address).await.unwrap();
        drop(server);
        // The kernel ends it in its own time.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
