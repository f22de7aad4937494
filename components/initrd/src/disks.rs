//! Waiting for the two partitions that the root hash names.
//!
//! Kernel uevents carry no partition UUID, so there is nothing to subscribe to: the disks are looked at again
//! and again, with pauses that grow from 1 ms to 50 ms, and new devices get their drivers in between.

use crate::console::Console;
use crate::failure::Failure;
use crate::partitions::{self, Partition};
use crate::plug::Plug;
use cairn_initrd::cmdline::CommandLine;
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Both partitions.
pub(crate) struct Found {
    /// The root file system.
    pub(crate) data: Partition,
    /// Its hash tree.
    pub(crate) hash: Partition,
}

/// What one look at all disks gave.
#[derive(Default)]
struct Look {
    data: Option<Partition>,
    hash: Option<Partition>,
    /// A sentence about each disk, for the message if nothing comes of it.
    disks: Vec<String>,
}

/// Waits for both partitions, at most as long as the command line allows.
pub(crate) fn wait(line: &CommandLine, plug: &mut Plug, console: &mut Console) -> Result<Found, Failure> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let look = look(line);
        if let (Some(data), Some(hash)) = (&look.data, &look.hash) {
            return Ok(Found { data: data.clone(), hash: hash.clone() });
        }
        if start.elapsed() >= line.wait {
            return Err(Failure::Missing(missing(line, &look, plug.failures())));
        }
        if plug.load_for_devices(console) {
            pause = FIRST_PAUSE;
        } else {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Looks at every disk once. A disk that has both partitions wins over two disks with one each.
fn look(line: &CommandLine) -> Look {
    let mut look = Look::default();
    for disk in partitions::disks().unwrap_or_default() {
        let found = match partitions::of_disk(&disk) {
            Ok(found) => found,
            Err(error) => {
                look.disks.push(format!("{disk} ({error})"));
                continue;
            }
        };
        look.disks.push(format!("{disk} ({} partitions)", found.len()));
        let named = |uuid| found.iter().find(|partition| partition.uuid == uuid).cloned();
        let (data, hash) = (named(line.root_hash.data_uuid()), named(line.root_hash.hash_uuid()));
        if data.is_some() && hash.is_some() {
            return Look { data, hash, ..look };
        }
        look.data = look.data.or(data);
        look.hash = look.hash.or(hash);
    }
    look
}

fn missing(line: &CommandLine, look: &Look, modules: &[String]) -> String {
    let (data, hash) = (line.root_hash.data_uuid(), line.root_hash.hash_uuid());
    let what = match (&look.data, &look.hash) {
        (None, Some(_)) => format!("the root partition, PARTUUID {data}, is missing"),
        (Some(_), None) => format!("the hash partition, PARTUUID {hash}, is missing"),
        _ => format!("the root partitions, PARTUUID {data} and {hash}, are missing"),
    };
    let seen = match look.disks.as_slice() {
        [] => "no disk was found: its driver is not in the initramfs, or there is none".to_owned(),
        disks => format!("disks seen: {}", disks.join(", ")),
    };
    let modules = match modules {
        [] => String::new(),
        failed => format!("; modules that failed to load: {}", failed.join(", ")),
    };
    format!("{what} after {} s; {seen}{modules}", line.wait.as_secs())
}
