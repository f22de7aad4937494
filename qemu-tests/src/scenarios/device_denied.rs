//! Device rules, which on cgroup v2 are a BPF program.

use crate::{
    guest::host::{Host, MOUNT},
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

/// A device that every node has, that opens without side effects, and that no container is given unasked.
const DEVICE: &str = "/dev/console";

pub(super) static SCENARIO: Scenario = Scenario {
    id: "device-denied",
    title: "a container opens the devices it was given, and no other, even where their nodes are",
    requirements: &["ra2.crt.001", "nodehardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();

    context.step("the device works where it is allowed");
    let host = Host::look(&guest, probe).await?;
    let opened = host.run(&["open", &format!("{MOUNT}{DEVICE}")]).await?;
    if opened.code != 0 {
        return Err(Stop::Skipped(format!("{DEVICE} cannot be opened here: {}", opened.stderr.trim())));
    }
    host.leave().await?;

    let pod = guest.pod("devices").run().await?;
    context.step("given, it opens");
    let given = pod.container("given", &probe.reference).args(["pause"]).device(DEVICE, "/dev/lent", "rw");
    let given = given.start().await?;
    check_equal("it", &given.exec(&[&program, "open", "/dev/lent"]).await?.success()?.trim(), &"ok")?;

    context.step("not given, it is refused, though its node is there");
    let denied = pod.container("denied", &probe.reference).args(["pause"]).mount(DEVICE, "/dev/lent");
    let denied = denied.start().await?;
    let opened = denied.exec(&[&program, "open", "/dev/lent"]).await?;
    check(opened.code != 0 && opened.stderr.contains("EPERM"), || {
        format!("it answered {}: {}{}", opened.code, opened.stdout, opened.stderr)
    })?;
    check_equal("/dev/null", &denied.exec(&[&program, "open", "/dev/null"]).await?.success()?.trim(), &"ok")?;
    pod.remove().await
}
