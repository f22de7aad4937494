//! `cairn node`

mod listen;
mod show;

use super::{Failure, output};
use cairn_contract::management::{
    JournalRequest, PowerAction, PowerRequest, StatusRequest, management_client::ManagementClient,
};
use cairn_qemu::management::{self, Address, Credentials, CredentialsError, Place};
use clap::Subcommand;
use std::{error::Error as _, future::Future, path::PathBuf, time::Duration};
use tonic::{Code, Status, transport::Channel};

/// Longest wait for an answer that the node has at hand. A guest under TCG may need seconds.
const ANSWER: Duration = Duration::from_secs(60);

/// Look at a running node and operate it, through its management API.
///
/// A node has no shell and no SSH. What a client may do is in its certificate: a reader may look, an
/// administrator may do everything. Exit code 2 is for what you can mend (credentials, a role that is not
/// enough), 3 for a node that does not answer.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the node is, whether it is ready, and what is wrong with it.
    #[command(
        after_help = "Examples:\n  cairn node status --node 192.0.2.7 --credentials machines/node-1\n  cairn node status --node node-1 --credentials machines/node-1 --json"
    )]
    Status {
        #[command(flatten)]
        access: Access,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read the node's journal, oldest entry first.
    #[command(
        after_help = "Examples:\n  cairn node journal --node 192.0.2.7 --credentials machines/node-1 --unit cairn-cri.service --lines 50\n  cairn node journal --node 127.0.0.1:40123 --follow\n  cairn node journal --node 192.0.2.7 --credentials machines/node-1 --boot -1 --json"
    )]
    Journal {
        #[command(flatten)]
        access: Access,
        /// Only this systemd unit.
        #[arg(long, short, value_name = "UNIT")]
        unit: Option<String>,
        /// Only the newest entries [default: all; 10 with --follow].
        #[arg(long, short = 'n', value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
        lines: Option<u64>,
        /// Go on with new entries as they come, until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// 0 is the present boot, -1 the one before it.
        #[arg(long, value_name = "NUMBER", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(..=0))]
        boot: i32,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Reach the node's container runtime (CRI) or one of its storage drivers (CSI) through a local socket, until
    /// Ctrl-C.
    ///
    /// The socket's URL is printed as soon as it takes connections. Needs an administrator's certificate.
    #[command(
        after_help = "Example:\n  cairn node tunnel --node 192.0.2.7 --credentials machines/node-1 --socket /tmp/cri.sock &\n  crictl --runtime-endpoint unix:///tmp/cri.sock pods"
    )]
    Tunnel {
        #[command(flatten)]
        access: Access,
        /// What it leads to.
        #[arg(long, value_enum, default_value_t)]
        to: listen::Target,
        /// Where the socket goes [default: cri.sock and so on in the credentials' directory]. Only its owner may use
        /// it.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Reboot the node in an orderly way. Needs an administrator's certificate.
    #[command(after_help = "Example:\n  cairn node reboot --node 192.0.2.7 --credentials machines/node-1")]
    Reboot {
        #[command(flatten)]
        access: Access,
    },
    /// Power the node off in an orderly way. Needs an administrator's certificate.
    #[command(after_help = "Example:\n  cairn node poweroff --node 192.0.2.7 --credentials machines/node-1")]
    Poweroff {
        #[command(flatten)]
        access: Access,
    },
}

/// Which node, and who asks.
#[derive(Debug, clap::Args)]
struct Access {
    /// Name or address of the node; the port is 50443 if none is given.
    #[arg(long, value_name = "HOST[:PORT]", env = "CAIRN_NODE")]
    node: Place,
    /// Directory with ca.pem and a client's certificate and key, as `cairn run` and `cairn machine new` write it.
    #[arg(long, value_name = "DIR", env = "CAIRN_CREDENTIALS", default_value = "cairn-run")]
    credentials: PathBuf,
    /// Which client: NAME.pem and NAME.key in that directory [default: admin, client or reader, what is there].
    #[arg(long = "as", value_name = "NAME")]
    client: Option<String>,
    /// Name that the node's certificate is for, if it is not the one in --node.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

impl Access {
    async fn connect(&self) -> Result<ManagementClient<Channel>, Failure> {
        let credentials = Credentials::from_directory(&self.credentials, self.client.as_deref());
        let credentials = credentials.map_err(|error| match error {
            CredentialsError::Read { path, source } => Failure::file(&path, "read", &source),
            error => Failure::mistake(error),
        })?;
        let address = Address::new(self.node.clone().named(self.server_name.clone()), credentials);
        management::connect(&address).await.map_err(|error| {
            if error.is_mistake() { Failure::mistake(error) } else { Failure::machine(error) }
        })
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::machine(format!("cannot start the event loop: {error}")))?;
    runtime.block_on(async {
        match args.command {
            Command::Status { access, json } => status(&access, json).await,
            Command::Journal { access, unit, lines, follow, boot, json } => {
                // As `journalctl --follow` does: a screenful of context rather than the whole log.
                let lines = lines.unwrap_or(if follow { 10 } else { 0 });
                let request = JournalRequest { unit: unit.unwrap_or_default(), lines, follow, boot };
                journal(&access, request, json).await
            }
            Command::Tunnel { access, to, socket } => {
                let socket = socket.unwrap_or_else(|| access.credentials.join(to.file()));
                listen::run(access.connect().await?, to, &socket, &access.node).await
            }
            Command::Reboot { access } => power(&access, PowerAction::Reboot).await,
            Command::Poweroff { access } => power(&access, PowerAction::Off).await,
        }
    })
}

async fn status(access: &Access, json: bool) -> Result<(), Failure> {
    let mut client = access.connect().await?;
    let status = answer(&access.node, client.status(StatusRequest {})).await?;
    if json { output::print_json(&show::status_json(&status)) } else { output::print(&show::status(&status)) }
}

async fn journal(access: &Access, request: JournalRequest, json: bool) -> Result<(), Failure> {
    let mut client = access.connect().await?;
    let mut entries = answer(&access.node, client.journal(request)).await?;
    while let Some(entry) = entries.message().await.map_err(|status| failure(&access.node, &status))? {
        let line = if json { show::entry_json(&entry).to_string() } else { show::entry(&entry) };
        output::print(&line)?;
    }
    Ok(())
}

async fn power(access: &Access, action: PowerAction) -> Result<(), Failure> {
    let mut client = access.connect().await?;
    answer(&access.node, client.power(PowerRequest { action: action.into() })).await?;
    let what = if action == PowerAction::Reboot { "reboots" } else { "powers off" };
    output::note(&format!("{} {what}", access.node));
    Ok(())
}

async fn answer<T>(
    node: &Place,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure(node, &status)),
        Err(_) => Err(Failure::machine(format!("{node} does not answer within {} s", ANSWER.as_secs()))),
    }
}

/// What the node said no with, by who has to act.
fn failure(node: &Place, status: &Status) -> Failure {
    let message = show::plain(status.message());
    match status.code() {
        Code::PermissionDenied => {
            Failure::mistake(format!("{node} does not allow it: {message}; choose a client with --as"))
        }
        Code::InvalidArgument | Code::NotFound => Failure::mistake(format!("{node}: {message}")),
        Code::Unimplemented => Failure::mistake(format!(
            "{node} does not know this request; its image is older than this program"
        )),
        _ => {
            let mut text = format!("{node}: {message}");
            let mut cause = status.source();
            while let Some(error) = cause {
                let reason = error.to_string();
                if !text.contains(&reason) {
                    text.push_str(&format!(": {}", show::plain(&reason)));
                }
                cause = error.source();
            }
            Failure::machine(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_who_has_to_act() {
        let node: Place = "node-1".parse().unwrap();
        for (status, code) in [
            (Status::permission_denied("this needs cairn:admin"), 2),
            (Status::not_found("no such boot"), 2),
            (Status::invalid_argument("no unit"), 2),
            (Status::unimplemented(""), 2),
            (Status::unavailable("cannot connect"), 3),
            (Status::internal("cannot run journalctl"), 3),
        ] {
            let failure = failure(&node, &status);
            assert_eq!(failure.code(), code, "{failure}");
            assert!(failure.to_string().starts_with("node-1:50443"), "{failure}");
        }
    }
}
