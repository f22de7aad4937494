//! A pod with users of its own.

use crate::{
    guest::host::{Host, MOUNT},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

/// The pod's ids on the node, as a kubelet would choose them.
const FIRST: u32 = 131_072;
const LENGTH: u32 = 65_536;
/// A volume, below the state partition.
const VOLUME: &str = "/var/lib/cairn-test-users";

pub(super) static SCENARIO: Scenario = Scenario {
    id: "user-namespace",
    title: "root of a pod with its own users is nobody on the node, and its volume's owners are mapped",
    requirements: &["ra2.crt.001", "nodehardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    context.step("run a pod with its own users");
    let pod = guest.pod("users").own_users(FIRST, LENGTH).run().await?;
    let container = pod.container("main", &probe.reference).args(["pause"]).mount_mapped(VOLUME, "/data");
    let container = container.start().await?;

    context.step("it is root to itself");
    let map = container.exec(&[&program, "cat", "/proc/self/uid_map"]).await?.success()?;
    let map: Vec<_> = map.split_whitespace().map(str::to_owned).collect();
    check_equal("its ids", &map, &vec!["0".to_owned(), FIRST.to_string(), LENGTH.to_string()])?;
    container.exec(&[&program, "write", "/data/made", "by root of the pod"]).await?.success()?;
    let own = container.exec(&[&program, "ls", "/data"]).await?.success()?;
    check(owner(&own, "made") == Some(0), || format!("in the pod the volume has {own}"))?;

    context.step("on the node it is nobody");
    let info = container.verbose_status(true).await?.info;
    let record: serde_json::Value = info
        .get("info")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| Stop::failed("the verbose status has no info"))?;
    let pid = record["pid"].as_i64().unwrap_or_default();
    let host = Host::look(&guest, probe).await?;
    let status = host.read_own(&format!("/proc/{pid}/status")).await?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    check_equal("its user", &uid, &Some(FIRST.to_string().as_str()))?;

    context.step("and its volume has ordinary owners");
    let files = host.run(&["ls", &format!("{MOUNT}{VOLUME}")]).await?.success()?;
    check(owner(&files, "made") == Some(0), || format!("on the node the volume has {files}"))?;
    host.leave().await?;
    pod.remove().await
}

/// The owner in a line of `ls`: mode, owner, group, size, name.
fn owner(listing: &str, name: &str) -> Option<u32> {
    let line = listing.lines().find(|line| line.split(' ').nth(4) == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}
