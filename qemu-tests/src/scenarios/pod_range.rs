//! The kubelet tells the node the pods' address range.

use crate::{
    guest::{
        host::Host,
        pod::{Container, Pod},
    },
    scenario::{Context, Needs, Scenario, Stop, check},
};
use std::net::IpAddr;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "pod-range",
    title: "new pods have addresses of the range that the kubelet tells, and old ones keep working",
    requirements: &["ra2.ntw.002", "ra2.ntw.013"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

const RANGE: &str = "10.244.7.0/24,fd00:244:7::/64";
/// The image's own, which the machine goes on with afterwards.
const IMAGES_RANGE: &str = "10.88.0.0/16,fd00:88::/64";
const PORT: &str = "8080";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let serve = ["serve", "--tcp", PORT, "--udp", PORT];

    context.step("a pod of before");
    let old = guest.pod("old").run().await?;
    let old_container = old.container("main", &probe.reference).args(serve).start().await?;
    check(!of_range(&old).await?, || "the range is in use before it was told".to_owned())?;

    context.step(format!("the kubelet tells {RANGE}"));
    guest.set_pod_range(RANGE).await?;
    let new = guest.pod("new").run().await?;
    let new_container = new.container("main", &probe.reference).args(serve).start().await?;
    check(of_range(&new).await?, || "the new pod's addresses are not of the range".to_owned())?;

    context.step("old and new reach each other, on both families");
    for ipv6 in [false, true] {
        for (from, to) in [(&new_container, &old), (&old_container, &new)] {
            dial(from, &program, to.address(ipv6).await?).await?;
        }
    }

    context.step("a new runtime remembers it");
    let host = Host::look(&guest, probe).await?;
    // The answer dies with the one that would give it.
    let _ = host.run(&["kill", "KILL", "cairn-cri"]).await;
    guest.runtime_ready().await?;
    let later = guest.pod("later").run().await?;
    check(of_range(&later).await?, || "the range is forgotten".to_owned())?;

    context.step("what is no range is refused");
    check(guest.set_pod_range("10.244.7.0").await.is_err(), || {
        "10.244.7.0 was taken for a range".to_owned()
    })?;

    context.step("remove the pods, and go back to the image's range");
    for pod in [later, new, old] {
        pod.remove().await?;
    }
    guest.set_pod_range(IMAGES_RANGE).await?;
    host.leave().await
}

async fn of_range(pod: &Pod) -> Result<bool, Stop> {
    let addresses = pod.addresses().await?;
    let told = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [10, 244, 7],
        IpAddr::V6(v6) => v6.segments()[..4] == [0xfd00, 0x244, 7, 0],
    };
    check(addresses.len() == 2, || format!("the pod's addresses are {addresses:?}"))?;
    Ok(addresses.iter().all(told))
}

async fn dial(from: &Container, program: &str, to: IpAddr) -> Result<(), Stop> {
    let to = to.to_string();
    for protocol in ["tcp", "udp"] {
        from.until_ok(&[program, "dial", protocol, &to, PORT, "hello"]).await?;
    }
    Ok(())
}
