//! A root partition in which one bit is not what was built.

use crate::{
    image::root::Root,
    node::Setup,
    scenario::{Context, Needs, Scenario, Stop},
};
use cairn_contract::{console, manifest::PartitionRole};
use std::{path::Path, time::Duration};

pub(super) static SUPERBLOCK: Scenario = Scenario {
    id: "flipped-superblock",
    title: "a flipped bit in the first block of the root partition keeps it from booting",
    requirements: &["ra2.ch.017"],
    needs: Needs::Own,
    budget: 2,
    run: |context| {
        Box::pin(async {
            // The inode count: nothing but a checksum would notice.
            refused(context, 4).await
        })
    },
};

pub(super) static DATA: Scenario = Scenario {
    id: "flipped-data",
    title: "a flipped bit in a file that the boot reads keeps it from booting",
    requirements: &["ra2.ch.017"],
    needs: Needs::Own,
    budget: 2,
    run: |context| {
        Box::pin(async {
            let offset = {
                let root = Root::open(&context.lab().image)?;
                root.first_block(Path::new(READ_AT_BOOT))?
            };
            refused(context, offset + 100).await
        })
    },
};

/// Every dynamically linked program reads it, systemd first.
const READ_AT_BOOT: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
/// What the kernel's dm-verity says, in the order in which it says it.
const CAUGHT: [&str; 3] =
    ["is corrupted", "dm-verity device corrupted", "dm-verity device has corrupted blocks"];
/// The kernel's last words before it starts the machine anew.
const PANIC: &str = "Kernel panic - not syncing";

async fn refused(context: &mut Context<'_>, offset: u64) -> Result<(), Stop> {
    let start = context.lab().image.partition(PartitionRole::RootA)?.offset;
    context.step(format!("power on with a flipped bit at byte {offset} of the root partition"));
    let mut node = context.boot(Setup { flips: vec![start + offset], ..Setup::default() }).await?;

    context.step("wait for dm-verity to say so");
    let ends = [CAUGHT[0], CAUGHT[1], CAUGHT[2], console::RUNTIME_READY, console::NODE_READY];
    let (index, line) = node.line(&ends, Duration::from_secs(20)).await?;
    if index >= CAUGHT.len() {
        return Err(Stop::failed(format!("the node came up all the same: {}", line.text)));
    }
    context.step("it does not come up afterwards");
    // Its end by the kernel or the initrd is one; without that, that it does not get ready.
    let ends = [console::NODE_READY, console::INITRD_FAILED, PANIC];
    let end = node.line(&ends, Duration::from_secs(5)).await;
    node.shut_down().await;
    match end {
        Ok((0, line)) => Err(Stop::failed(format!("the node came up all the same: {}", line.text))),
        _ => Ok(()),
    }
}
