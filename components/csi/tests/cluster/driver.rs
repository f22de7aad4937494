//! The drivers themselves, asked what they make of a class, a volume or a secret: nothing here knows their parameters twice.

use super::kinds::{AccessMode, CsiSource, StorageClass, Texts, VolumeMode};
use cairn_contract::{
    csi::{self, volume_capability},
    storage::{BackendKind, Quota, StorageConfig},
};
use cairn_csi::{
    access::Access,
    backend::{Attachment, Backend, Condition, Features, NewVolume},
    capacity::CapacityRange,
    encryption,
    error::Fault,
    id::{Name, Secrets, VolumeId},
    node::Staged,
};
use std::collections::BTreeMap;

/// What sidecars and the kubelet take for themselves (kubernetes-csi's documentation, "Secrets and Credentials"), besides
/// `csi.storage.k8s.io/fstype`.
const SECRET_KEYS: [&str; 4] = [
    "csi.storage.k8s.io/node-stage-secret-name",
    "csi.storage.k8s.io/node-stage-secret-namespace",
    "csi.storage.k8s.io/node-expand-secret-name",
    "csi.storage.k8s.io/node-expand-secret-namespace",
];
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
const SIDECARS: &str = "csi.storage.k8s.io/";
/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// The drivers, with directories of their own.
pub struct Drivers {
    _base: tempfile::TempDir,
    all: BTreeMap<BackendKind, Box<dyn Backend>>,
    /// Local volumes with quotas.
    strict: Box<dyn Backend>,
}

/// How a volume is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    pub modes: &'a [AccessMode],
    pub volume: VolumeMode,
    pub fs_type: &'a str,
    pub flags: &'a [String],
}

impl Drivers {
    pub fn open() -> Self {
        let base = tempfile::tempdir().unwrap();
        let mut config = StorageConfig {
            run: base.path().join("run"),
            state: base.path().join("state"),
            ..StorageConfig::default()
        };
        config.pools[0].path = base.path().join("pool");
        config.pools[0].quota = Quota::Off;
        let open = |kind| match kind {
            BackendKind::Local => cairn_csi::local::open(&config),
            BackendKind::Nfs => cairn_csi::nfs::open(&config),
            BackendKind::Iscsi => cairn_csi::iscsi::open(&config),
        };
        let all = BackendKind::ALL.map(|kind| (kind, open(kind).unwrap()));
        config.pools[0].path = base.path().join("strict");
        config.pools[0].quota = Quota::Enforced;
        let strict = cairn_csi::local::open(&config).unwrap();
        Self { _base: base, all: all.into(), strict }
    }

    pub fn features(&self, kind: BackendKind) -> Features {
        self.all[&kind].features()
    }

    /// Checks ways of use, as the provisioner and the kubelet make them of Kubernetes' access modes for a driver with
    /// SINGLE_NODE_MULTI_WRITER, which all of ours have.
    ///
    /// # Errors
    /// What the driver says.
    pub fn access(&self, kind: BackendKind, wanted: Use<'_>) -> Result<Vec<Access>, Fault> {
        use volume_capability::{AccessType, BlockVolume, MountVolume, access_mode::Mode};
        let access_type = match wanted.volume {
            VolumeMode::Block => AccessType::Block(BlockVolume {}),
            VolumeMode::Filesystem => AccessType::Mount(MountVolume {
                fs_type: wanted.fs_type.to_owned(),
                mount_flags: wanted.flags.to_vec(),
                volume_mount_group: String::new(),
            }),
        };
        let parse = |mode: &AccessMode| {
            let mode = match mode {
                AccessMode::OneNode => Mode::SingleNodeMultiWriter,
                AccessMode::OnePod => Mode::SingleNodeSingleWriter,
                AccessMode::Readers => Mode::MultiNodeReaderOnly,
                AccessMode::Everybody => Mode::MultiNodeMultiWriter,
            };
            let capability = csi::VolumeCapability {
                access_type: Some(access_type.clone()),
                access_mode: Some(volume_capability::AccessMode { mode: mode.into() }),
            };
            let access = Access::parse(Some(&capability), self.features(kind).options)?;
            self.all[&kind].accepts(&access).map(|()| access)
        };
        wanted.modes.iter().map(parse).collect()
    }

    /// Whether a volume can be made with a class, to be used like this.
    ///
    /// # Errors
    /// What the driver says, or what sidecars would not understand.
    pub fn makes(
        &self,
        class: &StorageClass,
        modes: &[AccessMode],
        volume: VolumeMode,
    ) -> Result<(), String> {
        let kind = kind_of(&class.provisioner)?;
        let (sidecars, own): (Texts, Texts) =
            class.parameters.clone().into_iter().partition(|(key, _)| key.starts_with(SIDECARS));
        if let Some(key) = sidecars.keys().find(|key| *key != FS_TYPE && !SECRET_KEYS.contains(&key.as_str()))
        {
            return Err(format!("sidecars know no {key}"));
        }
        let fs_type = sidecars.get(FS_TYPE).map(String::as_str).unwrap_or_default();
        let wanted = Use { modes, volume, fs_type, flags: &class.mount_options };
        let access = self.access(kind, wanted).map_err(|fault| fault.to_string())?;
        self.reads(kind, &own, &access)
    }

    /// Whether a volume that is there can be used like this.
    ///
    /// # Errors
    /// What the driver says.
    pub fn uses(&self, source: &CsiSource, wanted: Use<'_>) -> Result<(), String> {
        let kind = kind_of(&source.driver)?;
        let access = self.access(kind, wanted).map_err(|fault| fault.to_string())?;
        let id = VolumeId::parse(&source.volume_handle).map_err(|fault| fault.to_string())?;
        match kind {
            BackendKind::Iscsi => {
                // What the driver would not look at is a mistake all the same.
                const KNOWN: [&str; 6] =
                    ["targetPortal", "portals", "iqn", "lun", "sessionCHAPAuth", "encryption"];
                if let Some(key) = source.volume_attributes.keys().find(|key| !KNOWN.contains(&key.as_str()))
                {
                    return Err(format!("iSCSI volumes have no attribute {key}"));
                }
                let staged = Staged {
                    id,
                    path: None,
                    access: access[0].clone(),
                    context: source.volume_attributes.clone(),
                    publish: Texts::new(),
                    made: None,
                };
                let encrypted = encryption::is_wanted(&staged.context).map_err(|fault| fault.to_string())?;
                let asks = staged.context.get("sessionCHAPAuth").is_some_and(|value| value == "true");
                if source.node_stage_secret_ref.is_none() && (encrypted || asks) {
                    return Err("it needs a stage secret".to_owned());
                }
                match self.all[&kind].condition(&staged) {
                    Condition::Abnormal(text) if text.starts_with("0 of ") => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            }
            _ => self.reads(kind, &source.volume_attributes, &access),
        }
    }

    /// Whether a volume can have these mutable parameters.
    ///
    /// # Errors
    /// What the driver says.
    pub fn modifies(&self, driver: &str, mutable: &Texts) -> Result<(), String> {
        let kind = kind_of(driver)?;
        let modes = [AccessMode::OneNode];
        let wanted = Use { modes: &modes, volume: VolumeMode::Filesystem, fs_type: "", flags: &[] };
        let wanted = NewVolume {
            name: Name::parse("modified").map_err(|fault| fault.to_string())?,
            range: CapacityRange::default(),
            access: self.access(kind, wanted).map_err(|fault| fault.to_string())?,
            parameters: Texts::new(),
            mutable: mutable.clone(),
            secrets: Secrets::default(),
            source: None,
            source_staged: None,
        };
        // Most file systems have no quotas, which is said after the parameters are understood.
        match self.strict.create(&wanted) {
            Err(Fault::Invalid(text)) => Err(text),
            Err(_) => Ok(()),
            Ok(made) => self.strict.delete(&made.id, &Secrets::default()).map_err(|fault| fault.to_string()),
        }
    }

    /// Whether an inline volume can be made of these attributes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn inlines(&self, driver: &str, attributes: &Texts, fs_type: &str) -> Result<(), String> {
        let kind = kind_of(driver)?;
        let modes = [AccessMode::OneNode];
        let wanted = Use { modes: &modes, volume: VolumeMode::Filesystem, fs_type, flags: &[] };
        let access = self.access(kind, wanted).map_err(|fault| fault.to_string())?;
        let id = VolumeId::parse("csi-inline").map_err(|fault| fault.to_string())?;
        let backend = &self.all[&kind];
        let made = backend.create_ephemeral(&id, attributes, &access[0]);
        backend.delete(&id, &Secrets::default()).map_err(|fault| fault.to_string())?;
        made.map_err(|fault| fault.to_string())
    }

    /// Whether a stage secret has what a volume with these attributes needs, and nothing else.
    ///
    /// # Errors
    /// What the driver says.
    pub fn unlocks(&self, driver: &str, attributes: &Texts, secret: &Texts) -> Result<(), String> {
        let kind = kind_of(driver)?;
        let modes = [AccessMode::OneNode];
        let wanted = Use { modes: &modes, volume: VolumeMode::Filesystem, fs_type: "", flags: &[] };
        let access = self.access(kind, wanted).map_err(|fault| fault.to_string())?;
        let id = VolumeId::parse("secret").map_err(|fault| fault.to_string())?;
        let publish = Texts::new();
        let chap = secret.keys().filter(|key| key.starts_with("node.session.")).count();
        if secret.is_empty() || chap % 2 == 1 {
            return Err("a name and its password are one".to_owned());
        }
        for without in secret.keys() {
            let fewer = secret.iter().filter(|(key, _)| *key != without);
            let secrets = Secrets::from(fewer.map(|(key, value)| (key.clone(), value.clone())));
            let encrypted = encryption::grow(&id, attributes, &secrets);
            // A secret that is not whole is refused before anybody logs in anywhere.
            let fault = match encrypted {
                Err(fault @ Fault::Denied(_)) => Err(fault),
                _ if kind == BackendKind::Iscsi => self.all[&kind]
                    .attach(&Attachment {
                        id: &id,
                        access: &access[0],
                        context: attributes,
                        publish: &publish,
                        secrets: &secrets,
                    })
                    .map(drop),
                _ => Ok(()),
            };
            match fault {
                Err(Fault::Denied(text)) if text.contains(without.as_str()) => {}
                other => return Err(format!("nothing needs {without}: {other:?}")),
            }
        }
        Ok(())
    }

    /// Whether the driver's own parser takes parameters.
    fn reads(&self, kind: BackendKind, parameters: &Texts, access: &[Access]) -> Result<(), String> {
        let mut parameters = parameters.clone();
        if kind == BackendKind::Nfs {
            // The driver asks the server once it has understood all, so it is asked what it thinks of the server with a
            // share that it refuses, and of the rest with a server that is nowhere.
            let mut shareless = parameters.clone();
            shareless.insert("share".to_owned(), "nowhere".to_owned());
            match self.all[&kind].space(&shareless, access) {
                Err(Fault::Invalid(text)) if text.contains("share \"nowhere\"") => {}
                other => return Err(format!("{other:?}")),
            }
            parameters.insert("server".to_owned(), NOWHERE.to_owned());
        }
        match (kind, self.all[&kind].space(&parameters, access)) {
            (_, Err(Fault::Invalid(text))) => Err(text),
            (BackendKind::Local, Err(fault)) => Err(fault.to_string()),
            (BackendKind::Nfs, Ok(_)) => Err("no server is named".to_owned()),
            _ => Ok(()),
        }
    }
}

/// # Errors
/// If no driver has the name.
pub fn kind_of(driver: &str) -> Result<BackendKind, String> {
    let found = BackendKind::ALL.into_iter().find(|kind| kind.driver() == driver);
    found.ok_or_else(|| format!("there is no driver {driver}"))
}
