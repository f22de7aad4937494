//! A container's life from an image that is pulled.

use crate::{
    lab::TestImage,
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "container-pulled",
    title: "images are pulled (gzip, zstd, several platforms), run and removed",
    requirements: &["ra2.k8s.022", "ra2.crt.001", "ra2.crt.002"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let lab = context.lab();
    let mut references = Vec::new();
    for image in [TestImage::Gzip, TestImage::Zstd, TestImage::Index] {
        let reference = lab.pullable(image);
        context.step(format!("pull {reference}"));
        let pulled = guest.pull(&reference, None).await?;
        let known = guest.image(&reference).await?;
        let known = known.ok_or_else(|| Stop::failed("it was pulled and is not there"))?;
        check(known.size > 0, || "its size is 0".to_owned())?;
        check(known.repo_tags.contains(&reference), || format!("its tags are {:?}", known.repo_tags))?;

        context.step(format!("run {reference}"));
        let pod = guest.pod("pulled").run().await?;
        let container = pod.container("main", &pulled).args(["exit", "7"]).start().await?;
        let status = container.exited().await?;
        check_equal("the exit code", &status.exit_code, &7)?;
        check_equal("the reason", &status.reason.as_str(), &"Error")?;
        pod.remove().await?;
        references.push(reference);
    }

    context.step("pull again what is there");
    let before = blobs(context);
    guest.pull(&references[0], None).await?;
    check_equal("the number of blobs fetched again", &(blobs(context) - before), &0)?;

    context.step("remove the images");
    for reference in &references {
        guest.remove_image(reference).await?;
        check(guest.image(reference).await?.is_none(), || {
            format!("{reference} was removed and is still there")
        })?;
    }
    // CRI: removing what is not there is no error.
    guest.remove_image(&references[0]).await
}

fn blobs(context: &Context<'_>) -> usize {
    let is_fetch =
        |r: &&crate::registry::RequestRecord| r.method == http::Method::GET && r.path.contains("/blobs/");
    context.lab().registry.requests().iter().filter(is_fetch).count()
}
