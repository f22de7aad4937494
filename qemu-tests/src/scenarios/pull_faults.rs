//! Pulls from a registry that misbehaves.

use crate::{
    lab::TestImage,
    registry::Fault,
    scenario::{Context, Needs, Scenario, Stop, check},
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "pull-faults",
    title: "broken connections and server errors are retried, damaged layers are refused",
    requirements: &["ra2.k8s.022"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let lab = context.lab();
    let reference = lab.pullable(TestImage::Gzip);
    // The image may be there from elsewhere; then nothing would be fetched.
    guest.remove_image(&reference).await?;

    for (fault, what) in [
        (Fault::ServerError, "the server fails once"),
        (Fault::ResetAfter(100_000), "the connection breaks in the middle of a layer"),
    ] {
        context.step(what);
        lab.registry.misbehave(fault, 1);
        let pulled = guest.pull(&reference, None).await;
        lab.registry.behave();
        pulled?;
        guest.remove_image(&reference).await?;
    }

    context.step("every copy of the layer is damaged");
    lab.registry.misbehave(Fault::Corrupt, 100);
    let pulled = guest.pull(&reference, None).await;
    lab.registry.behave();
    check(pulled.is_err(), || "an image with a wrong digest was accepted".to_owned())?;
    check(guest.image(&reference).await?.is_none(), || "an image that was refused is there".to_owned())?;

    context.step("the registry behaves again");
    guest.pull(&reference, None).await?;
    guest.remove_image(&reference).await
}
