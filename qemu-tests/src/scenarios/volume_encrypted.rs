//! Encryption at rest, on the node's own disk.

use crate::{
    error::Fault,
    guest::{
        host::Host,
        volume::{Claim, Volume, refused},
    },
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::storage::BackendKind;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-encrypted",
    title: "what is in an encrypted volume is not on the disk, and nobody opens it without its key",
    requirements: &["ra2.stg.009"],
    needs: Needs::Shared,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const MIB: i64 = 1 << 20;
/// Written into an encrypted volume and into one that is not. Long enough to be there by no accident.
const HIDDEN: &str = "cairn hidden marker 4a9f3c1d8e6b7205 in a volume that is encrypted";
const PLAIN: &str = "cairn plain marker 4a9f3c1d8e6b7205 in a volume that is not encrypted";
const KEY: &str = "encryptionPassphrase";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Local)?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Local);
    driver.ready().await?;

    context.step("write into an encrypted volume, and into one that is not");
    let claim = |name: &str| Claim::files(name, 64 * MIB).parameter("type", "image");
    let encrypted = claim("encrypted").parameter("encryption", "luks2").secret(KEY, "the right passphrase");
    let hidden = driver.provision(encrypted).await?;
    let plain = driver.provision(claim("plain")).await?;
    mark(context, &host, &hidden, HIDDEN).await?;
    mark(context, &host, &plain, PLAIN).await?;
    host.run(&["sync"]).await?.success()?;

    context.step("look at the raw disk");
    let disk = context.node()?.directory().join("disk.qcow2");
    let found = tokio::task::spawn_blocking(move || holds(&disk, [HIDDEN, PLAIN])).await;
    let found = found.map_err(io::Error::other).and_then(|found| found);
    let [hidden_found, plain_found] = found.map_err(Fault::io("read the machine's disk"))?;
    check(plain_found, || {
        "not even what is not encrypted is found on the disk: the search is no good".to_owned()
    })?;
    check(!hidden_found, || "the encrypted volume's text is on the disk".to_owned())?;

    context.step("no key, and a wrong one");
    refused(
        "staging with a wrong key",
        hidden.with_secret(KEY, "a wrong one").stage(&host).await,
        "Unauthenticated",
    )?;
    refused("staging without a key", hidden.with_secret(KEY, "").stage(&host).await, "Unauthenticated")?;

    context.step("the right key, and more room");
    hidden.stage(&host).await?;
    let path = hidden.publish(&host, "again").await?;
    let (pod, container) = guest.pod_with("again", probe, &path).await?;
    let text = container.exec(&[&program, "cat", "/volume/marker"]).await?.success()?;
    check_equal("the text in it", &text.as_str(), &HIDDEN)?;
    hidden.expand("again", 128 * MIB).await?;
    container.exec(&[&program, "fill", "/volume/more", "80M"]).await?.success()?;
    pod.remove().await?;
    hidden.unpublish("again").await?;
    hidden.unstage().await?;

    context.step("no decrypted device is left");
    for name in host.list("/sys/block").await? {
        let map = host.read(&format!("/sys/block/{name}/dm/uuid")).await.unwrap_or_default();
        check(!map.starts_with("CRYPT-LUKS2-"), || format!("{name} is {map}"))?;
    }
    hidden.delete().await?;
    plain.delete().await?;
    host.leave().await
}

/// Writes a text into a volume, and takes the volume away again.
async fn mark(context: &mut Context<'_>, host: &Host, volume: &Volume, text: &str) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    volume.stage(host).await?;
    let path = volume.publish(host, "mark").await?;
    let (pod, container) = guest.pod_with("mark", probe, &path).await?;
    container.exec(&[&probe.program(), "write", "/volume/marker", text]).await?.success()?;
    pod.remove().await?;
    volume.unpublish("mark").await?;
    volume.unstage().await
}

/// Whether the file has these texts anywhere in it.
pub(super) fn holds<const N: usize>(path: &Path, texts: [&str; N]) -> io::Result<[bool; N]> {
    let mut file = File::open(path)?;
    let overlap = texts.iter().map(|text| text.len()).max().unwrap_or_default();
    let mut window = Vec::new();
    let mut found = [false; N];
    loop {
        let kept = window.len().min(overlap);
        window.drain(..window.len() - kept);
        if (&mut file).take(4 << 20).read_to_end(&mut window)? == 0 {
            return Ok(found);
        }
        for (found, text) in found.iter_mut().zip(texts) {
            *found = *found || contains(&window, text.as_bytes());
        }
    }
}

fn contains(window: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let mut rest = window;
    // Almost all of a disk is zeros, which this passes over quickly.
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(text) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_wherever_they_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for at in [0, 100, (4 << 20) - 3, (9 << 20) - 6] {
            let mut bytes = vec![0; 9 << 20];
            bytes[at..at + 6].copy_from_slice(b"needle");
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(holds(file.path(), ["needle", "noodle"]).unwrap(), [true, false], "{at}");
        }
    }
}
