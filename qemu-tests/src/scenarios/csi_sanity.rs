//! The conformance tests of CSI (kubernetes-csi/csi-test), run on the node against its drivers.
//!
//! The program is not ours and not Debian's: `CAIRN_CSI_SANITY` names it, and without that there is nothing to run. It gets the
//! node's C library, and the directories that it and the drivers have to see alike.

use crate::{
    error::Fault,
    guest::{
        host::{Host, LogLine},
        identity::HOST_FROM_GUEST,
    },
    registry::{ImageBuilder, Layer, SyntheticImage, synthesis::Compression},
    scenario::{Context, Needs, Scenario, Stop, check_equal},
    storage::nfs::{EXPORT, NfsServer},
};
use cairn_contract::{paths, storage::BackendKind};
use std::{io, path::Path, time::Duration};
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "csi-sanity",
    title: "the drivers pass CSI's conformance tests on the node",
    requirements: &["ra2.stg.004", "ra2.stg.006", "ra2.stg.010"],
    needs: Needs::Shared,
    budget: 10,
    run: |context| Box::pin(run(context)),
};

const PROGRAM: &str = "CAIRN_CSI_SANITY";
const REPOSITORY: &str = "cairn/csi-sanity";

/// What is tested, and with which parameters of a StorageClass.
struct Case {
    name: &'static str,
    kind: BackendKind,
    parameters: String,
}

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let Some(program) = std::env::var_os(PROGRAM) else {
        return Err(Stop::Skipped(format!(
            "{PROGRAM} names no csi-sanity program (kubernetes-csi/csi-test)"
        )));
    };
    let lab = context.lab();
    let mut cases = Vec::new();
    for (name, parameters) in [("directory", "type: directory\n"), ("image", "type: image\n")] {
        cases.push(Case { name, kind: BackendKind::Local, parameters: parameters.to_owned() });
    }
    let server = match NfsServer::start(&lab.work.join("sanity")).await {
        Ok(server) => {
            let parameters = format!("server: {HOST_FROM_GUEST}:{}\nshare: {EXPORT}\n", server.port);
            cases.push(Case { name: "nfs", kind: BackendKind::Nfs, parameters });
            Some(server)
        }
        Err(Stop::Skipped(_)) => None,
        Err(stop) => return Err(stop),
    };
    // Not iSCSI: its units are made by hand, and the suite's every test asks for a controller first.
    cases.retain(|case| lab.has_volumes(case.kind).is_ok());
    let image = image(Path::new(&program), &cases).map_err(Fault::io("make the image of csi-sanity"))?;
    lab.registry.publish(REPOSITORY, "test", &image);
    let guest = context.guest()?;
    let host = Host::look(&guest, &lab.probe).await?;
    let pulled =
        guest.pull(&format!("{}/{REPOSITORY}:test", crate::guest::identity::REGISTRY_HOST), None).await?;

    let mut failures = Vec::new();
    for Case { name, kind, .. } in &cases {
        context.step(format!("csi-sanity: {name}"));
        let kubelet = paths::KUBELET_STATE;
        // The program makes the last directory of a path only, and without a kubelet there is none for pods.
        let [staging, target] =
            ["staging", "target"].map(|role| format!("{kubelet}/plugins/sanity-{name}-{role}"));
        let endpoint = format!("--csi.endpoint=unix://{}", kind.socket(paths::CSI_RUN.as_ref()).display());
        let pod = guest.pod("sanity").on_host().run().await?;
        let container = pod
            .container("main", &pulled)
            .args([
                endpoint.as_str(),
                &format!("--csi.stagingdir={staging}"),
                &format!("--csi.mountdir={target}"),
                "--csi.testvolumesize=67108864",
                "--csi.testvolumeexpandsize=134217728",
                &format!("--csi.testvolumeparameters=/{name}.yaml"),
                "--ginkgo.no-color",
            ])
            .mount("/usr", "/usr")
            .mount(paths::CSI_RUN, paths::CSI_RUN)
            .mount_shared(kubelet, kubelet)
            .privileged();
        let container = container.start().await?;
        let deadline = guest.pace().deadline(Duration::from_secs(300));
        while container.status().await?.finished_at == 0 && deadline.is_open() {
            sleep(Duration::from_secs(1)).await;
        }
        let log = host.log(&container).await?;
        let summary = summary(&log);
        for (what, count) in
            [("passed", summary.passed), ("failed", summary.failed), ("skipped", summary.skipped)]
        {
            context.figure(format!("csi_sanity_{name}_{what}_count"), f64::from(count));
        }
        if summary.failed > 0 || summary.passed == 0 {
            failures.push(format!("{name}: {summary:?}: {}", complaints(&log)));
        }
        pod.remove().await?;
    }
    drop(server);
    check_equal("what failed", &failures, &Vec::new())?;
    host.leave().await
}

fn image(program: &Path, cases: &[Case]) -> io::Result<SyntheticImage> {
    let mut layer = Layer::new()
        .file("csi-sanity", 0o755, &std::fs::read(program)?)?
        .link("lib", "usr/lib")?
        .link("lib64", "usr/lib64")?;
    for directory in ["usr", "tmp", "dev", "proc", "sys"] {
        layer = layer.directory(directory, 0o755)?;
    }
    for Case { name, parameters, .. } in cases {
        layer = layer.file(&format!("{name}.yaml"), 0o644, parameters.as_bytes())?;
    }
    let config = serde_json::json!({ "Entrypoint": ["/csi-sanity"], "WorkingDir": "/" });
    Ok(ImageBuilder::new("amd64").config(config).layer(layer, Compression::Zstd)?.build())
}

/// The first failures: ginkgo's lines about each, up to its name at the end.
fn complaints(log: &[LogLine]) -> String {
    const LINES: usize = 12;
    let from =
        log.iter().position(|line| line.text.contains("[FAILED]")).unwrap_or(log.len().saturating_sub(LINES));
    let lines = log[from..]
        .iter()
        .take(LINES)
        .chain(log.iter().filter(|line| line.text.starts_with("[FAIL]")).take(LINES));
    lines.map(|line| line.text.trim()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
}

/// What ginkgo says at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// From `Ran 70 of 96 Specs in 3.2 seconds` and `FAIL! -- 69 Passed | 1 Failed | 0 Pending | 26 Skipped`.
fn summary(log: &[LogLine]) -> Summary {
    let line = log.iter().rev().find(|line| line.text.contains(" Passed | ")).map(|line| line.text.as_str());
    let count = |word: &str| -> u32 {
        let part = line.unwrap_or_default().split('|').find(|part| part.trim_end().ends_with(word));
        let numbers = part.and_then(|part| part.split_whitespace().rev().nth(1)?.parse().ok());
        numbers.unwrap_or_default()
    };
    Summary { passed: count("Passed"), failed: count("Failed"), skipped: count("Skipped") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let line = |text: &str| LogLine {
            time: String::new(),
            stream: "stdout".into(),
            tag: "F".into(),
            text: text.into(),
        };
        let log = [
            line("Ran 70 of 96 Specs"),
            line("FAIL! -- 69 Passed | 1 Failed | 0 Pending | 26 Skipped"),
            line(""),
        ];
        assert_eq!(summary(&log), Summary { passed: 69, failed: 1, skipped: 26 });
        assert_eq!(summary(&[]), Summary::default());
    }
}
