//! What all scenarios of a run have in common: emulator, image, certificates, registry, speed.

use crate::{
    error::{Error, Fault},
    guest::identity::{Identity, REGISTRY_HOST},
    image::{
        Image,
        root::{LayerFile, LayerFileKind, Probe, Root},
        uki::{self, UkiParts},
    },
    pace::Pace,
    qemu::{
        accelerator::{self, Accelerator, Choice},
        program::{self, Program},
    },
    registry::{
        Access, ImageBuilder, Layer, Registry, SyntheticImage, SyntheticIndex, synthesis::Compression,
    },
    scenario::Stop,
};
use cairn_contract::{paths, storage::BackendKind};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Repository in the harness's registry.
const REPOSITORY: &str = "cairn/probe";

/// Everything a machine of this run needs.
#[derive(Debug)]
pub struct Lab {
    /// Emulator.
    pub program: Program,
    /// KVM or TCG.
    pub accelerator: Accelerator,
    /// Image under test.
    pub image: Image,
    /// Its kernel, initrd and command line.
    pub uki: UkiParts,
    /// What containers run.
    pub probe: Probe,
    /// Kinds of volumes that the image has drivers for.
    pub volumes: Vec<BackendKind>,
    /// Certificates.
    pub identity: Identity,
    /// Registry on the host's loopback.
    pub registry: Registry,
    /// A directory for each machine.
    pub work: PathBuf,
    /// What failures leave behind.
    pub artefacts: PathBuf,
    /// Virtual CPUs of a machine.
    pub cpus: u32,
    /// RAM of a machine.
    pub memory_mib: u32,
    /// How far QEMU gives way to other programs, 0 to 19.
    pub niceness: i32,
    pace: Mutex<Pace>,
}

/// The choices a [`Lab`] is set up with.
#[derive(Debug, Clone)]
pub(crate) struct LabOptions<'a> {
    pub(crate) work: &'a Path,
    pub(crate) artefacts: &'a Path,
    pub(crate) accelerator: Choice,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) niceness: i32,
}

impl Lab {
    /// Prepares everything but the machines.
    pub(crate) async fn set_up(image: Image, options: LabOptions<'_>) -> Result<Self, Error> {
        let program = program::locate()?;
        let accelerator = accelerator::settle(options.accelerator, &program, options.work).await?;
        let uki = uki::extract(&image.uki, options.work)?;
        let root = Root::open(&image)?;
        let (probe, volumes) = (root.probe()?, root.volumes()?);
        let registry = Registry::start(Access::Open).await?;
        stock(&registry, &probe).map_err(Fault::io("make the test images"))?;
        Ok(Self {
            program,
            accelerator,
            uki,
            probe,
            volumes,
            registry,
            identity: Identity::generate()?,
            image,
            work: options.work.to_owned(),
            artefacts: options.artefacts.to_owned(),
            cpus: options.cpus,
            memory_mib: options.memory_mib,
            niceness: options.niceness,
            pace: Mutex::new(Pace::default()),
        })
    }

    /// The speed last measured.
    pub fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn measured(&self, pace: Pace) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
    }

    /// Skips what needs volumes that the image does not have.
    pub fn has_volumes(&self, kind: BackendKind) -> Result<(), Stop> {
        if self.volumes.contains(&kind) {
            return Ok(());
        }
        Err(Stop::Skipped(format!("the image has no {} volumes ([storage] of its profile)", kind.name())))
    }

    /// A reference to one of the images in the harness's registry, as a pod would name it.
    pub fn pullable(&self, image: TestImage) -> String {
        format!("{REGISTRY_HOST}/{REPOSITORY}:{}", image.tag())
    }
}

/// The images in the harness's registry. Each has the probe as its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestImage {
    /// One layer, gzip.
    Gzip,
    /// One layer, Zstandard.
    Zstd,
    /// Three layers; the upper ones hide, replace and add files below `/data`.
    Layered,
    /// An index: this platform's image behind one of a foreign platform.
    Index,
    /// What a network add-on brings: a CNI plugin at [`ADDON_PLUGIN`].
    Addon,
}

impl TestImage {
    const fn tag(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Layered => "layered",
            Self::Index => "index",
            Self::Addon => "addon",
        }
    }
}

fn stock(registry: &Registry, probe: &Probe) -> io::Result<()> {
    for (image, compression) in [(TestImage::Gzip, Compression::Gzip), (TestImage::Zstd, Compression::Zstd)] {
        registry.publish(REPOSITORY, image.tag(), &wrapped(probe, compression)?);
    }
    registry.publish(REPOSITORY, TestImage::Addon.tag(), &addon(probe)?);
    registry.publish(REPOSITORY, TestImage::Layered.tag(), &layered(probe)?);
    let foreign = ImageBuilder::new("arm64")
        .layer(Layer::new().file("foreign", 0o644, b"")?, Compression::Gzip)?
        .build();
    let index = SyntheticIndex::new(vec![foreign, wrapped(probe, Compression::Gzip)?]);
    registry.publish_index(REPOSITORY, TestImage::Index.tag(), &index);
    Ok(())
}

fn wrapped(probe: &Probe, compression: Compression) -> io::Result<SyntheticImage> {
    let builder = ImageBuilder::new("amd64").config(probe.run_config());
    Ok(builder.layer(probe_layer(probe)?, compression)?.build())
}

/// Where [`TestImage::Addon`] has its plugin. It is a script of the node's own `ptp`, so that there is something in it that works;
/// the runtime knows nothing of that.
pub const ADDON_PLUGIN: &str = "/plugin";

fn addon(probe: &Probe) -> io::Result<SyntheticImage> {
    let script = format!("#!{}/ptp\n", paths::CNI_OWN);
    let layer = probe_layer(probe)?.file(ADDON_PLUGIN.trim_start_matches('/'), 0o755, script.as_bytes())?;
    let builder = ImageBuilder::new("amd64").config(probe.run_config());
    Ok(builder.layer(layer, Compression::Gzip)?.build())
}

fn probe_layer(probe: &Probe) -> io::Result<Layer> {
    let mut layer = Layer::new();
    for LayerFile { path, mode, kind } in &probe.files {
        let path = path.to_str().ok_or_else(|| io::Error::other("a path in the probe image is not UTF-8"))?;
        layer = match kind {
            LayerFileKind::Directory => layer.directory(path, *mode)?,
            LayerFileKind::File(content) => layer.file(path, *mode, content)?,
            LayerFileKind::Link(target) => layer.link(path, &target.to_string_lossy())?,
        };
    }
    Ok(layer)
}

/// What the scenario `image-layers` expects: `/data/keep` "kept", `/data/changed` "new", no `/data/gone`, in
/// `/data/opaque` only `new`.
fn layered(probe: &Probe) -> io::Result<SyntheticImage> {
    let below = Layer::new()
        .directory("data", 0o755)?
        .file("data/keep", 0o644, b"kept")?
        .file("data/gone", 0o644, b"gone")?
        .file("data/changed", 0o644, b"old")?
        .directory("data/opaque", 0o755)?
        .file("data/opaque/old", 0o644, b"old")?;
    let above = Layer::new()
        .whiteout("data/gone")?
        .file("data/changed", 0o600, b"new")?
        .opaque("data/opaque")?
        .file("data/opaque/new", 0o644, b"new")?
        .link("data/link", "keep")?;
    let builder = ImageBuilder::new("amd64").config(probe.run_config());
    Ok(builder
        .layer(probe_layer(probe)?, Compression::Zstd)?
        .layer(below, Compression::Gzip)?
        .layer(above, Compression::Zstd)?
        .build())
}
