//! The system tree cannot be written, by anybody.

use crate::{
    guest::host::Host,
    scenario::{Context, Needs, Scenario, Stop, check},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "immutable",
    title: "every write to the system tree is refused, and /etc lives in memory",
    requirements: &["ra2.ch.017"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

/// A new file, and one that is there, in each part of the tree.
const REFUSED: [&str; 8] = [
    "/cairn-test",
    "/usr/cairn-test",
    "/usr/bin/cairn-test",
    "/usr/lib/os-release",
    "/usr/lib/systemd/systemd",
    "/usr/libexec/cairn/cairn-test",
    "/usr/share/cairn/images/index.json",
    "/opt/cairn-test",
];

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let host = Host::look(&guest, &context.lab().probe).await?;
    for path in REFUSED {
        context.step(format!("write {path}"));
        let output = host.write(path, "changed").await?;
        check(output.code != 0, || format!("{path} was written"))?;
        let says = format!("{}{}", output.stdout, output.stderr);
        check(says.contains("EROFS"), || {
            format!("writing {path} failed for another reason than a read-only file system: {}", says.trim())
        })?;
    }

    context.step("look at the mounts");
    let mounts = host.read("/proc/1/mounts").await?;
    let of =
        |point: &str| mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(point)).unwrap_or_default();
    let root = of("/");
    check(root.contains(" squashfs ro") && root.starts_with("/dev/"), || {
        format!("/ is mounted as `{root}`")
    })?;
    let etc = of("/etc");
    check(etc.contains(" overlay "), || format!("/etc is mounted as `{etc}`, expected an overlay"))?;

    context.step("state can be written");
    let output = host.write("/var/lib/cairn-test-immutable", "state").await?;
    output.success().map_err(|stop| stop.while_trying("write below /var"))?;
    host.leave().await
}
