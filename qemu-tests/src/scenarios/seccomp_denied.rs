//! The default seccomp profile.

use crate::{
    guest::pod::Output,
    scenario::{Context, Needs, Scenario, Stop, check, check_equal},
};
use cairn_contract::cri::{SecurityProfile, security_profile::ProfileType};

/// A system call that needs no capability, and that only a filter refuses.
const REFUSED: &str = "keyctl";

pub(super) static SCENARIO: Scenario = Scenario {
    id: "seccomp-denied",
    title: "the default seccomp profile refuses what a container does not need, also to commands in it",
    requirements: &["ra2.crt.001", "nodehardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let pod = guest.pod("seccomp").run().await?;
    let by_filter = |output: &Output| matches!(output.stdout.trim(), "EPERM" | "ENOSYS");
    for (name, kind, refused) in
        [("open", ProfileType::Unconfined, false), ("filtered", ProfileType::RuntimeDefault, true)]
    {
        context.step(format!("{REFUSED} with profile {}", kind.as_str_name()));
        let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() };
        let container = pod.container(name, &probe.reference).args(["pause"]);
        let container = container.security(|security| security.seccomp = Some(profile)).start().await?;
        let tried = container.exec(&[&program, "syscall", REFUSED]).await?;
        check(by_filter(&tried) == refused, || format!("the kernel answered {}", tried.stdout.trim()))?;
        let harmless = container.exec(&[&program, "syscall", "getpid"]).await?.success()?;
        check_equal("getpid", &harmless.trim(), &"ok")?;
    }
    pod.remove().await
}
