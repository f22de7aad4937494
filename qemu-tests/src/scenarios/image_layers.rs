//! Upper layers hide, replace and add.

use crate::{
    lab::TestImage,
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "image-layers",
    title: "whiteouts, opaque directories and links of several layers come out right",
    requirements: &["ra2.k8s.022", "ra2.crt.001"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let lab = context.lab();
    let reference = lab.pullable(TestImage::Layered);
    context.step("pull");
    let pulled = guest.pull(&reference, None).await?;
    let pod = guest.pod("layers").run().await?;
    let container = pod.container("main", &pulled).args(["pause"]).start().await?;

    let program = lab.probe.program();
    for (path, wanted) in [
        ("/data/keep", "kept"),
        ("/data/changed", "new"),
        ("/data/link", "kept"),
        ("/data/opaque/new", "new"),
    ] {
        context.step(format!("read {path}"));
        let text = container.exec(&[&program, "cat", path]).await?.success()?;
        check_equal(path, &text.trim_end(), &wanted)?;
    }
    for path in ["/data/gone", "/data/opaque/old", "/data/.wh.gone", "/data/opaque/.wh..wh..opq"] {
        context.step(format!("miss {path}"));
        let output = container.exec(&[&program, "cat", path]).await?;
        check(output.code != 0, || format!("{path} is there: {}", output.stdout))?;
    }

    context.step("write to the container's own layer");
    container.exec(&[&program, "write", "/data/keep", "mine"]).await?.success()?;
    let text = container.exec(&[&program, "cat", "/data/keep"]).await?.success()?;
    check_equal("/data/keep", &text.trim_end(), &"mine")?;
    pod.remove().await?;
    guest.remove_image(&reference).await
}
