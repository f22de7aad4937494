//! Volumes on an NFS server.

use crate::{
    guest::{
        host::Host,
        identity::HOST_FROM_GUEST,
        volume::{Claim, refused},
    },
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
    storage::nfs::{EXPORT, EXPORT_READ_ONLY, EXPORT_SQUASHED, NfsServer},
};
use cairn_contract::{csi::volume_capability::access_mode::Mode, storage::BackendKind};
use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-nfs",
    title: "an NFS export is shared by pods, written, read only where it should be, and released",
    requirements: &["ra2.stg.003", "ra2.stg.006", "ra2.stg.007"],
    needs: Needs::Shared,
    budget: 3,
    run: |context| Box::pin(run(context)),
};

const SIZE: i64 = 1 << 30;
/// A pod's `fsGroup`.
const GROUP: u32 = 4242;

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Nfs)?;
    let server = NfsServer::start(&context.lab().work.join("nfs")).await?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Nfs);
    driver.register(&host).await?;
    driver.ready().await?;
    let address = format!("{HOST_FROM_GUEST}:{}", server.port);
    let claim = |name: &str, share: &str| {
        let claim = Claim::files(name, SIZE).used_by(Mode::MultiNodeMultiWriter);
        claim.parameter("server", &address).parameter("share", share).flag("vers=4.1")
    };

    context.step("a directory for a volume, shared by two pods");
    let volume = driver.provision(claim("shared", EXPORT)).await?;
    check(server.directory.join("shared").is_dir(), || "there is no directory on the server".to_owned())?;
    let again = driver.provision(claim("shared", EXPORT)).await?;
    check_equal("the volume's identifier when asked for again", &again.id, &volume.id)?;
    volume.stage(&host).await?;
    let first = volume.publish(&host, "first").await?;
    let second = volume.publish_read_only(&host, "second").await?;
    let (writer, writing) = guest.pod_with("first", probe, &first).await?;
    let (reader, reading) = guest.pod_with("second", probe, &second).await?;
    writing.exec(&[&program, "write", "/volume/said", "from one pod to another"]).await?.success()?;
    let heard = reading.exec(&[&program, "cat", "/volume/said"]).await?.success()?;
    check_equal("what the other pod reads", &heard.as_str(), &"from one pod to another")?;
    let on_server = std::fs::read_to_string(server.directory.join("shared/said")).unwrap_or_default();
    check_equal("what is on the server", &on_server.as_str(), &"from one pod to another")?;
    let refusal = reading.exec(&[&program, "write", "/volume/said", "no"]).await?;
    check(refusal.stderr.contains("EROFS"), || format!("a read-only pod wrote: {refusal:?}"))?;
    check(!volume.stats("first").await?.volume_condition.unwrap_or_default().abnormal, || {
        "the driver calls it abnormal".to_owned()
    })?;

    context.step("an export that somebody else made, for reading only");
    std::fs::write(server.directory.join("given"), "by somebody else")
        .map_err(crate::error::Fault::io("write on the server"))?;
    let attributes = [("server", address.clone()), ("share", EXPORT_READ_ONLY.to_owned())];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value)).into();
    let given = driver.existing("an-export", claim("given", EXPORT_READ_ONLY), attributes);
    given.stage(&host).await?;
    let path = given.publish(&host, "third").await?;
    let (pod, container) = guest.pod_with("third", probe, &path).await?;
    let text = container.exec(&[&program, "cat", "/volume/given"]).await?.success()?;
    check_equal("what it holds", &text.as_str(), &"by somebody else")?;
    let refusal = container.exec(&[&program, "write", "/volume/given", "no"]).await?;
    check(refusal.code == 1, || "it was written to".to_owned())?;
    pod.remove().await?;
    given.unpublish("third").await?;
    given.unstage().await?;

    context.step("fsGroup where the server takes the node's root for nobody, and where it does not");
    let theirs = server.directory.join("theirs");
    fs::create_dir(&theirs)
        .and_then(|()| fs::set_permissions(&theirs, Permissions::from_mode(0o777)))
        .map_err(crate::error::Fault::io("make a directory on the server"))?;
    let group = || {
        fs::metadata(&theirs).map(|seen| seen.gid()).map_err(crate::error::Fault::io("look at the server"))
    };
    let before = group()?;
    for (share, given) in [(EXPORT_SQUASHED, before), (EXPORT, GROUP)] {
        let attributes = [("server", address.as_str()), ("share", share), ("subDir", "theirs")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let name = share.trim_start_matches('/');
        let volume = driver.existing(name, claim(name, share).group(GROUP), attributes);
        volume.stage(&host).await?;
        let path = volume.publish(&host, name).await?;
        check_equal("the group of the directory on the server", &group()?, &given)?;
        let (pod, container) = guest.pod_with(name, probe, &path).await?;
        let file = format!("/volume/{name}");
        container.exec(&[&program, "write", &file, "from the pod"]).await?.success()?;
        let made =
            fs::metadata(theirs.join(name)).map_err(crate::error::Fault::io("look at the pod's file"))?;
        check_equal("whether the pod's file is root's", &(made.uid() == 0), &(share == EXPORT))?;
        pod.remove().await?;
        volume.unpublish(name).await?;
        volume.unstage().await?;
    }

    context.step("what leads elsewhere is refused");
    let outside = claim("outside", EXPORT).parameter("subDir", "../outside");
    refused("a directory outside", driver.provision(outside).await, "InvalidArgument")?;
    refused("an export that is not there", driver.provision(claim("none", "/none")).await, "NotFound")?;
    let taken = claim("taken", EXPORT).parameter("subDir", "shared");
    refused("another volume's directory", driver.provision(taken).await, "AlreadyExists")?;
    let inside = claim("inside", EXPORT).parameter("subDir", "shared/inside");
    refused("a directory in another volume", driver.provision(inside).await, "AlreadyExists")?;
    check(!server.directory.join("shared/inside").exists(), || "a volume is in another".to_owned())?;

    context.step("released, on the node and on the server");
    writer.remove().await?;
    reader.remove().await?;
    volume.unpublish("first").await?;
    volume.unpublish("second").await?;
    volume.unstage().await?;
    let mounts = host.read("/proc/1/mountinfo").await?;
    check(!mounts.contains(" nfs4 "), || format!("still mounted: {mounts}"))?;
    volume.delete().await?;
    volume.delete().await?;
    check(!server.directory.join("shared").exists(), || "the directory is still on the server".to_owned())?;
    check(server.directory.join("given").exists(), || "what was somebody else's is gone".to_owned())?;
    host.leave().await
}
