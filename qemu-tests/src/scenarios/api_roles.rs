//! Who may call the management API.

use crate::{
    guest::{Guest, forwarded, identity::Identity},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use cairn_contract::paths;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "api-roles",
    title: "a reader may look but not act, and strangers are not let in",
    requirements: &["node hardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let port = context.node()?.port(paths::MANAGEMENT_PORT)?;
    let pace = context.guest()?.pace();
    let identity = &context.lab().identity;

    context.step("look as a reader");
    let reader = Guest::new(&forwarded(port, &identity.ca, &identity.reader)?, pace);
    reader.status().await?;

    context.step("try to act as a reader");
    refused("reboot the node", reader.reboot().await)?;
    refused("reach the CRI socket", reader.version().await)?;

    context.step("try to look with a certificate of another CA");
    let stranger = Identity::generate()?;
    let stranger = Guest::new(&forwarded(port, &identity.ca, &stranger.admin)?, pace);
    check(stranger.status().await.is_err(), || {
        "a client certificate of an unknown CA was accepted".to_owned()
    })?;

    context.step("the administrator still may");
    context.guest()?.version().await.map(drop)
}

/// Refused for lack of rights, rather than by accident.
fn refused<T>(what: &str, result: Result<T, Stop>) -> Result<(), Stop> {
    match result {
        Ok(_) => Err(Stop::failed(format!("a reader may {what}"))),
        Err(Stop::Failed(message)) => {
            check(message.contains("PermissionDenied") || message.contains("permission"), || {
                format!(
                    "a reader that tries to {what} is told something else than PermissionDenied: {message}"
                )
            })
        }
        Err(other) => Err(other),
    }
}
