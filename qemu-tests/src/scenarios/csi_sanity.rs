//! The conformance tests of CSI (kubernetes-csi/csi-test), run on the node against its drivers.
//!
//! The program is not ours and not Debian's: `CAIRN_CSI_SANITY` names it, and without that there is nothing to run. It gets the
//! node's C library, and the directories that it and the drivers have to see alike.
//!
//! Our iSCSI driver has no controller. `--csi.controllerendpoint` would give the suite one, but whether there is one its node
//! tests ask the driver, and leave out most of themselves or fail if it says no. So they are given both as one plugin, which the
//! harness serves: its controller makes units of a real target, its Node service is the driver's.

use super::volume_iscsi::{OURS, attributes, no_records};
use crate::{
    error::Fault,
    guest::{
        Guest,
        host::{Host, LogLine},
        identity::{HOST_FROM_GUEST, REGISTRY_HOST},
    },
    registry::{ImageBuilder, Layer, SyntheticImage, synthesis::Compression},
    scenario::{Context, Needs, Scenario, Stop, check_equal},
    storage::{
        iscsi::{Account, IscsiPlugin, IscsiTarget},
        nfs::{EXPORT, NfsServer},
    },
};
use cairn_contract::{paths, storage::BackendKind};
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio::time::sleep;

pub(super) static SCENARIO: Scenario = Scenario {
    id: "csi-sanity",
    title: "the drivers pass CSI's conformance tests on the node",
    requirements: &["ra2.stg.003", "ra2.stg.004", "ra2.stg.006", "ra2.stg.010"],
    needs: Needs::Shared,
    budget: 16,
    run: |context| Box::pin(run(context)),
};

const PROGRAM: &str = "CAIRN_CSI_SANITY";
const REPOSITORY: &str = "cairn/csi-sanity";
const DISKS: &str = "/sys/block";

/// What is tested.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    kind: BackendKind,
    /// `mount` or `block`.
    access: &'static str,
    /// Ways to the target, for iSCSI.
    ways: usize,
}

const CASES: [Case; 5] = [
    Case { name: "directory", kind: BackendKind::Local, access: "mount", ways: 0 },
    Case { name: "image", kind: BackendKind::Local, access: "mount", ways: 0 },
    Case { name: "nfs", kind: BackendKind::Nfs, access: "mount", ways: 0 },
    Case { name: "iscsi", kind: BackendKind::Iscsi, access: "mount", ways: 1 },
    Case { name: "multipath", kind: BackendKind::Iscsi, access: "block", ways: 2 },
];

/// Where a case's volumes are, as long as that is there.
enum Storage {
    Node,
    Nfs(Box<NfsServer>),
    Iscsi(Arc<IscsiTarget>, IscsiPlugin),
}

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let Some(program) = std::env::var_os(PROGRAM) else {
        return Err(Stop::Skipped(format!(
            "{PROGRAM} names no csi-sanity program (kubernetes-csi/csi-test)"
        )));
    };
    let lab = context.lab();
    let guest = context.guest()?;
    let mut cases = Vec::new();
    for case in CASES.into_iter().filter(|case| lab.has_volumes(case.kind).is_ok()) {
        match case.storage(&guest, &lab.work.join("sanity").join(case.name)).await {
            Ok(storage) => cases.push((case, storage)),
            Err(Stop::Skipped(reason)) => context.step(format!("not {}: {reason}", case.name)),
            Err(stop) => return Err(stop),
        }
    }
    if cases.is_empty() {
        return Err(Stop::Skipped("the image has no volumes that can be had here".to_owned()));
    }
    let image = image(Path::new(&program), &cases).map_err(Fault::io("make the image of csi-sanity"))?;
    lab.registry.publish(REPOSITORY, "test", &image);
    let host = Host::look(&guest, &lab.probe).await?;
    let pulled = guest.pull(&format!("{REGISTRY_HOST}/{REPOSITORY}:test"), None).await?;

    let mut failures = Vec::new();
    for (case, storage) in &cases {
        let name = case.name;
        context.step(format!("csi-sanity: {name}"));
        let disks = host.list(DISKS).await?;
        let log = case.suite(&guest, &host, &pulled, storage).await?;
        let summary = summary(&log);
        for (what, count) in
            [("passed", summary.passed), ("failed", summary.failed), ("skipped", summary.skipped)]
        {
            context.figure(format!("csi_sanity_{name}_{what}_count"), f64::from(count));
        }
        if summary.failed > 0 || summary.passed == 0 {
            failures.push(format!("{name}: {summary:?}: {}", complaints(&log)));
        }
        if let Storage::Iscsi(target, plugin) = storage {
            context.figure(format!("csi_sanity_{name}_units_count"), f64::from(plugin.made().await));
            match nothing_left(&host, &disks, target, plugin).await {
                Err(Stop::Failed(what)) => failures.push(format!("{name}: {what}")),
                other => other?,
            }
        }
    }
    drop(cases);
    check_equal("what failed", &failures, &Vec::new())?;
    host.leave().await
}

impl Case {
    async fn storage(&self, guest: &Guest, work: &Path) -> Result<Storage, Stop> {
        Ok(match self.kind {
            BackendKind::Local => Storage::Node,
            BackendKind::Nfs => Storage::Nfs(Box::new(NfsServer::start(work).await?)),
            BackendKind::Iscsi => {
                let target = IscsiTarget::start(work, self.ways).await?;
                target.require(OURS).await?;
                let (target, node) = (Arc::new(target), guest.driver_channel(self.kind));
                let plugin = IscsiPlugin::serve(target.clone(), attributes(&target, ""), node)?;
                Storage::Iscsi(target, plugin)
            }
        })
    }

    /// Runs the suite; what it said.
    async fn suite(
        &self,
        guest: &Guest,
        host: &Host,
        image: &str,
        storage: &Storage,
    ) -> Result<Vec<LogLine>, Stop> {
        let Self { name, kind, access, .. } = self;
        let kubelet = paths::KUBELET_STATE;
        // The program makes the last directory of a path only, and without a kubelet there is none for pods.
        let [staging, target] =
            ["staging", "target"].map(|role| format!("{kubelet}/plugins/sanity-{name}-{role}"));
        let endpoint = match storage {
            Storage::Iscsi(_, plugin) => format!("dns:///{HOST_FROM_GUEST}:{}", plugin.port),
            _ => format!("unix://{}", kind.socket(paths::CSI_RUN.as_ref()).display()),
        };
        let pod = guest.pod("sanity").on_host().run().await?;
        let container = pod
            .container("main", image)
            .args([
                format!("--csi.endpoint={endpoint}").as_str(),
                &format!("--csi.stagingdir={staging}"),
                &format!("--csi.mountdir={target}"),
                &format!("--csi.testvolumeaccesstype={access}"),
                "--csi.testvolumesize=67108864",
                "--csi.testvolumeexpandsize=134217728",
                &format!("--csi.testvolumeparameters=/{name}.yaml"),
                &format!("--csi.secrets=/{name}-secrets.yaml"),
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
        pod.remove().await?;
        Ok(log)
    }
}

impl Storage {
    /// Parameters of a StorageClass, and the suite's secrets, both as YAML.
    fn files(&self, case: &Case) -> (String, String) {
        match self {
            Self::Node => (format!("type: {}\n", case.name), String::new()),
            Self::Nfs(server) => {
                (format!("server: {HOST_FROM_GUEST}:{}\nshare: {EXPORT}\n", server.port), String::new())
            }
            Self::Iscsi(..) => {
                let Account { user, secret } = OURS;
                let secrets = format!(
                    "NodeStageVolumeSecret:\n  node.session.auth.username: {user}\n  node.session.auth.password: {secret}\n"
                );
                (String::new(), secrets)
            }
        }
    }
}

/// The suite removed what it made, and the driver left nothing of it on the node.
async fn nothing_left(
    host: &Host,
    disks: &[String],
    target: &IscsiTarget,
    plugin: &IscsiPlugin,
) -> Result<(), Stop> {
    check_equal("the units", &plugin.volumes().await, &Vec::new())?;
    check_equal("the sessions", &target.sessions().await?, &0)?;
    check_equal("the node's disks", &host.list(DISKS).await?.as_slice(), &disks)?;
    no_records(host).await
}

fn image(program: &Path, cases: &[(Case, Storage)]) -> io::Result<SyntheticImage> {
    let mut layer = Layer::new()
        .file("csi-sanity", 0o755, &std::fs::read(program)?)?
        .link("lib", "usr/lib")?
        .link("lib64", "usr/lib64")?;
    for directory in ["usr", "tmp", "dev", "proc", "sys"] {
        layer = layer.directory(directory, 0o755)?;
    }
    for (case, storage) in cases {
        let (name, (parameters, secrets)) = (case.name, storage.files(case));
        layer = layer.file(&format!("{name}.yaml"), 0o644, parameters.as_bytes())?;
        layer = layer.file(&format!("{name}-secrets.yaml"), 0o644, secrets.as_bytes())?;
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
