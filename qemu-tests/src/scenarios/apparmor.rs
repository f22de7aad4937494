//! AppArmor profiles.

use crate::{
    guest::host::Host,
    scenario::{Context, Needs, Scenario, Stop, check},
};
use cairn_contract::cri::{SecurityProfile, security_profile::ProfileType};

/// A knob that the runtime's default profile closes, and the file permissions do not.
const KNOB: &str = "/proc/sysrq-trigger";

pub(super) static SCENARIO: Scenario = Scenario {
    id: "apparmor",
    title: "a container is under the default AppArmor profile, and a profile that is not loaded is refused",
    requirements: &["ra2.crt.001", "nodehardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    let probe = &context.lab().probe;
    let program = probe.program();
    let host = Host::look(&guest, probe).await?;
    let enabled = host.read_own("/sys/module/apparmor/parameters/enabled").await;
    let parser = host.run(&["sha256", "/host/usr/sbin/apparmor_parser"]).await?;
    host.leave().await?;
    if !enabled.is_ok_and(|text| text.starts_with('Y')) {
        return Err(Stop::Skipped("the image's kernel does not use AppArmor".to_owned()));
    }

    let pod = guest.pod("apparmor").run().await?;
    context.step("ask for a profile that is not loaded");
    let profile = |kind: ProfileType, name: &str| {
        Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
    };
    let absent = pod.container("absent", &probe.reference);
    let absent = absent.security(|security| security.apparmor = profile(ProfileType::Localhost, "absent"));
    match absent.create().await {
        Err(Stop::Failed(reason)) if reason.contains("not loaded") => {}
        Err(other) => return Err(other),
        Ok(_) => return Err(Stop::failed("a container was made without the profile it asked for")),
    }
    if parser.code != 0 {
        pod.remove().await?;
        return Err(Stop::Skipped("the image has no apparmor_parser to load the default profile".to_owned()));
    }

    context.step("the default profile denies");
    let confined = pod.container("confined", &probe.reference).args(["pause"]);
    let confined = confined.security(|security| security.apparmor = profile(ProfileType::RuntimeDefault, ""));
    let confined = confined.start().await?;
    let label = confined.exec(&[&program, "cat", "/proc/self/attr/current"]).await?.success()?;
    check(label.trim() == "cairn-default (enforce)", || format!("its label is {label}"))?;
    let written = confined.exec(&[&program, "write", KNOB, "?"]).await?;
    check(written.code != 0 && written.stderr.contains("EACCES"), || {
        format!("writing {KNOB} answered {}: {}", written.code, written.stderr)
    })?;
    pod.remove().await
}
