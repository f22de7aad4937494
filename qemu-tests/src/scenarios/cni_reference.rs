//! The CNI plugins in the image and the reference plugins do the same, with the links that only the image's kernel has.
//!
//! What compares is the program that also compares on the host (`components/cni/examples/reference.rs`). It, the
//! reference plugins and the tools that both want come from the machine that runs the harness, as an image of its
//! registry; the plugins under test are those of the node.

use crate::{
    guest::{host::MOUNT, identity::REGISTRY_HOST},
    registry::{ImageBuilder, Layer, SyntheticImage, synthesis::Compression},
    scenario::{Context, Needs, Scenario, Stop, check},
};
use std::{
    collections::BTreeSet,
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "cni-reference",
    title: "CNI plugins do what the reference plugins do, with ipvlan, VLANs, VRFs, dummies and checked addresses, too",
    requirements: &["ra2.ntw.002", "ra2.ntw.013"],
    needs: Needs::Shared,
    budget: 4,
    run: |context| Box::pin(run(context)),
};

/// The plugins under test, on the node.
const PROGRAM: &str = "/usr/libexec/cairn/cairn-cni";
const REPOSITORY: &str = "cairn/cni-reference";
/// Where things are in the container.
const COMPARISON: &str = "compare";
const REFERENCE: &str = "reference";
const TOOLS: &str = "bin";
/// Programs that the comparison or the reference starts, and where hosts have them.
const PROGRAMS: [&str; 3] = ["/usr/sbin/ip", "/usr/sbin/tc", "/usr/sbin/bridge"];
/// What the reference checks hardware addresses with; a host without it leaves that out.
const NFT: &str = "/usr/sbin/nft";
/// Reference plugins that the comparisons below are about, or that those start.
const PLUGINS: [&str; 8] = ["bridge", "host-local", "static", "ipvlan", "vlan", "vrf", "dummy", "macvlan"];
/// Words in the titles of what is compared: a process each, so that each shows in the report.
const COMPARED: [&str; 7] =
    [": ipvlan ", ": vlan ", ": vrf ", "{\"vlan\"", "\"vlanTrunk\"", ": dummy ", ": macspoofchk "];

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let (comparison, reference) = found()?;
    let image = image(&comparison, &reference).map_err(|error| Stop::Skipped(error.to_string()))?;
    let guest = context.guest()?;
    context.lab().registry.publish(REPOSITORY, "run", &image);
    context.step("pull the reference plugins and what compares");
    let name = format!("{REGISTRY_HOST}/{REPOSITORY}:run");
    let pulled = guest.pull(&name, None).await?;
    let pod = guest.pod("cni-reference").on_host().run().await?;
    let program = format!("/{COMPARISON}");
    let container = pod
        .container("main", &pulled)
        .args(["--wait"])
        .env("PATH", &format!("/{TOOLS}"))
        .env("CAIRN_CNI_PROGRAM", &format!("{MOUNT}{PROGRAM}"))
        .env("CAIRN_CNI_REFERENCE", &format!("/{REFERENCE}"))
        .mount("/", MOUNT)
        .privileged()
        .start()
        .await?;
    for word in COMPARED {
        context.step(format!("compare `{}`", word.trim_matches([':', ' ', '{'])));
        let output = container.exec(&[&program, word]).await?;
        let lines = |start: &str| output.stdout.lines().filter(|line| line.starts_with(start)).count();
        check(output.code == 0, || format!("{}{}", output.stdout, output.stderr))?;
        // Older references lack some plugins, some hosts a program; what this kernel lacks is a fault of the image.
        let excuse = |line: &&str| ["Plugin(", "Program("].iter().any(|need| line.contains(need));
        let excused = output.stdout.lines().filter(excuse).count();
        check(lines("equal") + excused > 0 && lines("skipped") == excused, || output.stdout.clone())?;
    }
    pod.remove().await?;
    guest.remove_image(&name).await
}

/// The comparison and the directory of reference plugins, where this machine has them.
fn found() -> Result<(PathBuf, PathBuf), Stop> {
    let beside = || Some(env::current_exe().ok()?.parent()?.join("examples/reference"));
    let comparison = env::var_os("CAIRN_CNI_COMPARISON").map(PathBuf::from).or_else(beside);
    let comparison = comparison.filter(|path| path.is_file()).ok_or_else(|| {
        Stop::Skipped(
            "nothing to compare with: cargo build --release -p cairn-cni --example reference".to_owned(),
        )
    })?;
    let reference = env::var_os("CAIRN_CNI_REFERENCE").map_or_else(|| "/usr/lib/cni".into(), PathBuf::from);
    if !reference.join("bridge").is_file() {
        let why = "no reference plugins (package containernetworking-plugins)";
        return Err(Stop::Skipped(format!("{}: {why}", reference.display())));
    }
    Ok((comparison, reference))
}

fn image(comparison: &Path, reference: &Path) -> io::Result<SyntheticImage> {
    let mut layer = Layer::new();
    // Those that the runtime mounts on, or that programs expect.
    for directory in ["proc", "sys", "dev", "run", "tmp", "etc", &MOUNT[1..], TOOLS, REFERENCE] {
        layer = layer.directory(directory, 0o755)?;
    }
    let mut libraries = BTreeSet::new();
    layer = program(layer, COMPARISON, comparison, &mut libraries)?;
    let nft = Some(NFT).filter(|path| Path::new(path).is_file());
    for path in PROGRAMS.into_iter().chain(nft).map(Path::new) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        layer = program(layer, &format!("{TOOLS}/{name}"), path, &mut libraries)?;
    }
    for plugin in PLUGINS {
        let path = reference.join(plugin);
        if path.is_file() {
            layer = program(layer, &format!("{REFERENCE}/{plugin}"), &path, &mut libraries)?;
        }
    }
    let parents = libraries.iter().flat_map(|library| Path::new(library).ancestors().skip(1));
    let parents: BTreeSet<&str> = parents.filter_map(|parent| parent.to_str()?.strip_prefix('/')).collect();
    for directory in parents.into_iter().filter(|directory| !directory.is_empty()) {
        layer = layer.directory(directory, 0o755)?;
    }
    for library in &libraries {
        layer = layer.file(library.trim_start_matches('/'), 0o755, &fs::read(library)?)?;
    }
    let config = serde_json::json!({"Entrypoint": [format!("/{COMPARISON}")]});
    Ok(ImageBuilder::new("amd64").config(config).layer(layer, Compression::Zstd)?.build())
}

/// Adds a program, and notes the shared libraries it wants.
fn program(layer: Layer, name: &str, path: &Path, libraries: &mut BTreeSet<String>) -> io::Result<Layer> {
    let content = fs::read(path).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
    // A static program is no error worth telling: it wants none.
    let listed = Command::new("ldd").arg(path).output()?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    libraries.extend(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    layer.file(name, 0o755, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_libraries() {
        let path = Path::new("/bin/sh");
        if !path.exists() {
            println!("skipped: no /bin/sh");
            return;
        }
        let mut libraries = BTreeSet::new();
        program(Layer::new(), "sh", path, &mut libraries).unwrap();
        assert!(libraries.iter().any(|library| library.contains("libc.so")), "{libraries:?}");
        assert!(libraries.iter().all(|library| Path::new(library).is_file()), "{libraries:?}");
        assert!(program(Layer::new(), "x", Path::new("/no/such"), &mut libraries).is_err());
    }
}
