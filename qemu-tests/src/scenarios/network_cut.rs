//! The network is cut for a minute, with volumes in use.

use super::volume_iscsi::{OURS, attributes};
use crate::{
    error::Fault,
    guest::{host::Host, identity::HOST_FROM_GUEST, volume::Claim},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
    storage::{
        iscsi::IscsiTarget,
        nfs::{EXPORT, NfsServer},
    },
};
use cairn_contract::storage::BackendKind;
use std::time::Duration;
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "network-cut",
    title: "a minute without network loses nothing of what pods write to NFS and iSCSI volumes",
    requirements: &["ra2.stg.003", "ra2.stg.006"],
    needs: Needs::Shared,
    budget: 5,
    run: |context| Box::pin(run(context)),
};

const MIB: i64 = 1 << 20;
/// The clocks of guest and servers run as ours does, whatever the machine's speed.
const CUT: Duration = Duration::from_secs(60);

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Nfs)?;
    context.lab().has_volumes(BackendKind::Iscsi)?;
    let work = context.lab().work.join("cut");
    let server = NfsServer::start(&work.join("nfs")).await?;
    let target = IscsiTarget::start(&work.join("iscsi"), 1).await?;
    target.require(OURS).await?;
    target.add(1, 64 << 20).await?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;

    context.step("two pods write on and on");
    let nfs = guest.driver(BackendKind::Nfs);
    nfs.ready().await?;
    let claim = Claim::files("cut", MIB)
        .parameter("server", format!("{HOST_FROM_GUEST}:{}", server.port))
        .parameter("share", EXPORT)
        .flag("vers=4.1");
    let export = nfs.provision(claim).await?;
    let iscsi = guest.driver(BackendKind::Iscsi);
    iscsi.ready().await?;
    let claim = Claim::files("unit", 64 * MIB)
        .secret("node.session.auth.username", OURS.user)
        .secret("node.session.auth.password", OURS.secret);
    let unit = iscsi.existing("a-unit", claim, attributes(&target, "1"));
    let mut pods = Vec::new();
    for (name, volume) in [("export", &export), ("unit", &unit)] {
        volume.stage(&host).await?;
        let path = volume.publish(&host, name).await?;
        let pod = guest.pod(name).run().await?;
        // 64 KiB each time, and each is waited for: some before the cut, some in it, some after.
        let writer = pod.container("main", &probe.reference).mount(&path, "/volume");
        let writer = writer.args(["fill", "/volume/written", "8M", "--every", "300"]).start().await?;
        pods.push((pod.id, writer.id, path));
    }
    sleep(Duration::from_secs(5)).await;

    context.step("pull the cable for a minute");
    context.node()?.pull_cable().await?;
    sleep(CUT).await;
    let before = written(&server)?;
    check(before < 8 << 20, || "everything was written before the cable was pulled".to_owned())?;
    context.node()?.plug_cable().await?;
    let guest = context.guest()?;

    context.step("they write on to the end");
    for (_, writer, _) in &pods {
        let deadline = guest.pace().deadline(Duration::from_secs(180));
        loop {
            let listed = guest.containers().await?;
            let state = listed.iter().find(|c| c.id == *writer).map(cairn_contract::cri::Container::state);
            if state == Some(cairn_contract::cri::ContainerState::ContainerExited) {
                break;
            }
            check(deadline.is_open(), || format!("a writer is still {state:?}"))?;
            sleep(Duration::from_secs(1)).await;
        }
    }
    check_equal("the bytes on the NFS server", &written(&server)?, &(8 << 20))?;

    context.step("what was written is right, and all is released");
    let (nfs, iscsi) = (guest.driver(BackendKind::Nfs), guest.driver(BackendKind::Iscsi));
    let (export, unit) = (export.of(&nfs), unit.of(&iscsi));
    let mut sums = Vec::new();
    for ((id, _, path), name) in pods.iter().zip(["export", "unit"]) {
        let (pod, container) = guest.pod_with(&format!("{name}-read"), probe, path).await?;
        let sum = container.exec(&[&program, "sha256", "/volume/written"]).await?.success()?;
        sums.push(sum);
        pod.remove().await?;
        guest.stop_pod(id).await?;
        guest.remove_pod(id).await?;
    }
    check_equal("the unit's digest", &sums[1], &sums[0])?;
    for (name, volume) in [("export", &export), ("unit", &unit)] {
        let condition = volume.stats(name).await?.volume_condition.unwrap_or_default();
        check(!condition.abnormal, || format!("{name}: {condition:?}"))?;
        volume.unpublish(name).await?;
        volume.unstage().await?;
    }
    export.delete().await?;
    check_equal("the iSCSI sessions", &target.sessions().await?, &0)?;
    guest.sweep().await
}

/// How much the server has of the file.
fn written(server: &NfsServer) -> Result<u64, Stop> {
    let path = server.directory.join("cut/written");
    let length = std::fs::metadata(&path).map_err(Fault::io(format!("look at {}", path.display())))?.len();
    Ok(length)
}
