//! A pod's bandwidth is limited as its annotations say.

use crate::{
    guest::pod::{Container, Pod},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use serde_json::Value;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "bandwidth",
    title: "a pod's ingress and egress keep to the annotated limit within 10 %",
    requirements: &["ra2.ntw.002"],
    needs: Needs::Shared,
    budget: 2,
    run: |context| Box::pin(run(context)),
};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The limit, where the machine can exceed it by far, in megabits a second.
const LIMIT: f64 = 100.0;
/// What may be missing or too much.
const TOLERANCE: f64 = 0.1;
const SECONDS: &str = "5";
const PORT: &str = "8080";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let sink = ["serve", "--tcp", PORT, "--sink"];

    context.step("what two pods exchange without a limit");
    let free = guest.pod("free").run().await?;
    let free_container = free.container("main", &probe.reference).args(sink).start().await?;
    let other = guest.pod("other").run().await?;
    let from_other = other.container("main", &probe.reference).args(sink).start().await?;
    let unlimited = pour(&from_other, &program, &free).await?;
    context.figure("unlimited_megabits_per_second", unlimited);
    // An emulated machine on a busy host may be too slow to have the usual limit tested.
    let limit = if unlimited > 2.0 * LIMIT { LIMIT } else { (unlimited / 3.0).floor() };
    check(limit >= 1.0, || format!("two pods exchange only {unlimited:.1} Mbit/s, too little to limit it"))?;

    context.step(format!("what a pod with a limit of {limit} Mbit/s gets and sends"));
    let annotated = guest.pod("limited").annotation(INGRESS, &format!("{limit}M"));
    let limited = annotated.annotation(EGRESS, &format!("{limit}M")).run().await?;
    let inside = limited.container("main", &probe.reference).args(sink).start().await?;
    let ingress = pour(&free_container, &program, &limited).await?;
    context.figure("limited_ingress_megabits_per_second", ingress);
    let egress = pour(&inside, &program, &free).await?;
    context.figure("limited_egress_megabits_per_second", egress);
    for (what, measured) in [("gets", ingress), ("sends", egress)] {
        check((measured / limit - 1.0).abs() <= TOLERANCE, || {
            format!(
                "the pod {what} {measured:.1} Mbit/s, and its limit is {limit}; without one it is {unlimited:.1}"
            )
        })?;
    }

    context.step("remove the pods");
    for pod in [limited, other, free] {
        pod.remove().await?;
    }
    Ok(())
}

/// Megabits a second from a container to a pod.
async fn pour(from: &Container, program: &str, to: &Pod) -> Result<f64, Stop> {
    let ip = to.address(false).await?.to_string();
    // The sink may not listen yet.
    let text = from.until_ok(&[program, "pour", &ip, PORT, SECONDS]).await?;
    let result: Value =
        serde_json::from_str(&text).map_err(|error| Stop::failed(format!("pour: {error}: {text}")))?;
    result["megabits_per_second"].as_f64().ok_or_else(|| Stop::failed(format!("pour: {text}")))
}
