//! A unit of an iSCSI target, by two ways.

use crate::{
    guest::{
        host::Host,
        identity::HOST_FROM_GUEST,
        volume::{Claim, Volume, refused},
    },
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
    storage::{
        gate::Gate,
        iscsi::{Account, IscsiTarget, TARGET},
    },
};
use cairn_contract::storage::BackendKind;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "volume-iscsi",
    title: "an iSCSI unit with CHAP and two ways is used, loses a way, grows, outlives the driver, and is logged out of",
    requirements: &["ra2.stg.003", "ra2.stg.006"],
    needs: Needs::Shared,
    budget: 6,
    run: |context| Box::pin(run(context)),
};

const MIB: i64 = 1 << 20;
/// Who the node is to targets, in every scenario that has one.
pub(super) const OURS: Account<'_> = Account { user: "node", secret: "twelve-bytes-or-more" };
const THEIRS: Account<'_> = Account { user: "target", secret: "another-long-secret" };
/// In the Kubernetes secret.
const SECRET: &str = "node.session.auth.password";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    context.lab().has_volumes(BackendKind::Iscsi)?;
    let target = IscsiTarget::start(&context.lab().work.join("iscsi"), 2).await?;
    target.require(OURS).await?;
    target.answer_as(THEIRS).await?;
    target.add(1, 64 << 20).await?;
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let driver = guest.driver(BackendKind::Iscsi);
    driver.register(&host).await?;
    driver.ready().await?;
    let claim = Claim::files("unit", 64 * MIB)
        .secret("node.session.auth.username", OURS.user)
        .secret(SECRET, OURS.secret)
        .secret("node.session.auth.username_in", THEIRS.user)
        .secret("node.session.auth.password_in", THEIRS.secret);
    let twin = Claim { name: "twin".to_owned(), ..claim.clone() };
    let volume = driver.existing("a-unit", claim, attributes(&target, "1"));

    context.step("wrong secrets, and a unit that is not there");
    let wrong = volume.with_secret(SECRET, "not-the-right-one");
    refused("a wrong secret", wrong.stage(&host).await, "Unauthenticated")?;
    let none = driver.existing("no-unit", Claim::files("none", MIB), attributes(&target, "1"));
    refused("no secret", none.stage(&host).await, "Unauthenticated")?;
    check_equal("the sessions after that", &target.sessions().await?, &0)?;

    context.step("log in by both ways, format, write");
    volume.stage(&host).await?;
    check_equal("the sessions", &target.sessions().await?, &2)?;
    let path = volume.publish(&host, "first").await?;
    let (pod, container) = guest.pod_with("first", probe, &path).await?;
    container.exec(&[&program, "fill", "/volume/kept", "2M"]).await?.success()?;
    let sum = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
    condition(context, &volume, false).await?;

    context.step("another volume that names the same unit comes and goes, and one that fails to come");
    let failing = driver.existing("a-failing-twin", twin.clone().on("xfs"), attributes(&target, "1"));
    refused("another file system", failing.stage(&host).await, "FailedPrecondition")?;
    let twin = driver.existing("a-twin", twin, attributes(&target, "1"));
    twin.stage(&host).await?;
    twin.unstage().await?;
    check_equal("the sessions after that", &target.sessions().await?, &2)?;
    container.exec(&[&program, "fill", "/volume/still-there", "2M"]).await?.success()?;
    condition(context, &volume, false).await?;

    context.step("take one way away");
    target.gates()[0].shut();
    container.exec(&[&program, "fill", "/volume/one-way", "2M"]).await?.success()?;
    condition(context, &volume, true).await?;

    context.step("and give it back");
    target.gates()[0].open();
    condition(context, &volume, false).await?;
    // The other way, so that the one that came back carries everything.
    target.gates()[1].shut();
    container.exec(&[&program, "fill", "/volume/other-way", "2M"]).await?.success()?;
    target.gates()[1].open();
    condition(context, &volume, false).await?;

    context.step("kill the driver: the sessions live on");
    let _ = host.run(&["kill", "KILL", "cairn-csi"]).await;
    driver.ready().await?;
    check_equal("the sessions", &target.sessions().await?, &2)?;
    container.exec(&[&program, "fill", "/volume/after", "1M"]).await?.success()?;

    context.step("a larger unit");
    // The target's unit is not there for a moment; a machine that stands still does not see that.
    context.node()?.freeze().await?;
    let grown = target.grow(1, 128 << 20).await;
    context.node()?.thaw().await?;
    grown?;
    let size = volume.expand_on_node("first", 128 * MIB).await?;
    check(size >= 128 * MIB, || format!("it has {size} bytes"))?;
    container.exec(&[&program, "fill", "/volume/large", "70M"]).await?.success()?;

    context.step("released");
    pod.remove().await?;
    volume.unpublish("first").await?;
    volume.unstage().await?;
    check_equal("the sessions", &target.sessions().await?, &0)?;
    let disks = host.list("/sys/block").await?;
    let left: Vec<_> = disks.iter().filter(|name| name.starts_with("sd")).collect();
    check(left.is_empty(), || format!("disks are left: {left:?}"))?;
    no_records(&host).await?;

    context.step("used again, by another pod, while one way is down");
    target.gates()[1].shut();
    volume.stage(&host).await?;
    check_equal("the sessions by one way", &target.sessions().await?, &1)?;
    let path = volume.publish(&host, "first").await?;
    let (pod, container) = guest.pod_with("second", probe, &path).await?;
    condition(context, &volume, true).await?;

    context.step("the way that was down comes");
    target.gates()[1].open();
    condition(context, &volume, false).await?;
    check_equal("the sessions by both ways", &target.sessions().await?, &2)?;
    by_both_ways(context, &host).await?;
    target.gates()[0].shut();
    container.exec(&[&program, "fill", "/volume/other-way", "2M"]).await?.success()?;
    target.gates()[0].open();
    let seen = container.exec(&[&program, "sha256", "/volume/kept"]).await?.success()?;
    check_equal("the file's digest", &seen, &sum)?;
    pod.remove().await?;
    volume.unpublish("first").await?;
    volume.unstage().await?;
    check_equal("the sessions at the end", &target.sessions().await?, &0)?;
    host.leave().await
}

/// There is no record of a login on the node: it would have secrets in it.
pub(super) async fn no_records(host: &Host) -> Result<(), Stop> {
    let records = host.list("/run/cairn/iscsi/nodes").await.unwrap_or_default();
    check(records.is_empty(), || format!("records with secrets are left: {records:?}"))
}

/// What a persistent volume written by hand says.
pub(super) fn attributes(target: &IscsiTarget, lun: &str) -> BTreeMap<String, String> {
    attributes_by(target.gates(), lun)
}

/// The same, by some of the ways.
pub(super) fn attributes_by<'g>(
    gates: impl IntoIterator<Item = &'g Gate>,
    lun: &str,
) -> BTreeMap<String, String> {
    let portals: Vec<String> =
        gates.into_iter().map(|gate| format!("{HOST_FROM_GUEST}:{}", gate.port())).collect();
    let portals = serde_json::Value::from(portals).to_string();
    let entries = [("iqn", TARGET), ("lun", lun), ("portals", &portals), ("sessionCHAPAuth", "true")];
    entries.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Waits until both of the unit's disks are part of a device.
async fn by_both_ways(context: &mut Context<'_>, host: &Host) -> Result<(), Stop> {
    let deadline = context.guest()?.pace().deadline(Duration::from_secs(60));
    loop {
        let mut parts = 0;
        for disk in host.list("/sys/block").await?.iter().filter(|name| name.starts_with("sd")) {
            parts += usize::from(!host.list(&format!("/sys/block/{disk}/holders")).await?.is_empty());
        }
        if parts == 2 {
            return Ok(());
        }
        check(deadline.is_open(), || format!("{parts} of 2 disks are part of a device"))?;
        sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until the driver calls the volume abnormal, or well again.
async fn condition(context: &mut Context<'_>, volume: &Volume, abnormal: bool) -> Result<(), Stop> {
    let deadline = context.guest()?.pace().deadline(Duration::from_secs(60));
    loop {
        let condition = volume.stats("first").await?.volume_condition.unwrap_or_default();
        if condition.abnormal == abnormal {
            return Ok(());
        }
        check(deadline.is_open(), || format!("its condition is still {condition:?}"))?;
        sleep(Duration::from_millis(500)).await;
    }
}
