//! A StorageClass's parameters for local volumes.

use crate::{
    access::{Access, AccessType},
    backend::Texts,
    capacity::CapacityRange,
    encryption,
    error::Fault,
    filesystem::FsType,
};
use serde::{Deserialize, Serialize};

/// What a volume is in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A directory, held to its size by a quota.
    Directory,
    /// A sparse file behind a loop device.
    Image,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Image => "image",
        }
    }
}

/// Checked parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) kind: Kind,
    /// `None`: the first one.
    pub(super) pool: Option<String>,
    /// The file system that was asked for by name.
    pub(super) fs_type: Option<FsType>,
    /// An image gets its file system when it is made.
    pub(super) formatted: bool,
    /// As the driver's encryption wants it.
    pub(super) encryption: Option<String>,
}

/// The kind: `directory` or `image`. Left out, block volumes are images and others directories.
const TYPE: &str = "type";
/// The file system of images: `ext4` or `xfs`. A capability's `fs_type` says the same.
const FS_TYPE: &str = "fsType";
/// The pool's name.
const POOL: &str = "pool";
/// Mutable: files that a directory volume may have.
pub(super) const FILES: &str = "files";
/// Inline volumes: the size, in bytes or with a suffix as Kubernetes writes quantities.
const SIZE: &str = "size";

impl Parameters {
    /// Checks parameters, for a volume that is to be used in all the ways of `access`.
    pub(super) fn parse(parameters: &Texts, access: &[Access]) -> Result<Self, Fault> {
        const KNOWN: [&str; 4] = [TYPE, FS_TYPE, POOL, encryption::PARAMETER];
        if let Some(key) = parameters.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return Err(Fault::Invalid(format!(
                "there is no parameter {key:?} for local volumes; there are {}",
                KNOWN.join(", ")
            )));
        }
        let block = access.iter().any(|access| access.kind == AccessType::Block);
        let encryption = parameters.get(encryption::PARAMETER).cloned();
        let kind = match parameters.get(TYPE).map(String::as_str) {
            Some("image") => Kind::Image,
            Some("directory") => Kind::Directory,
            None if block || encryption.is_some() => Kind::Image,
            None => Kind::Directory,
            Some(other) => {
                return Err(Fault::Invalid(format!("{TYPE} {other:?} is not one of directory and image")));
            }
        };
        if kind == Kind::Directory && (block || encryption.is_some()) {
            return Err(Fault::Invalid(format!(
                "a directory cannot be {}: use {TYPE} image",
                if block { "a block device" } else { "encrypted" }
            )));
        }
        let mounts: Vec<_> = access.iter().filter_map(Access::mount).collect();
        let named = parameters.get(FS_TYPE).map(|name| {
            FsType::parse(name)
                .ok_or_else(|| Fault::Invalid(format!("{FS_TYPE} {name:?} is not one of ext4 and xfs")))
        });
        let mut named = named.transpose()?.into_iter().chain(mounts.iter().filter_map(|mount| mount.fs_type));
        let fs_type = named.next();
        if named.any(|other| Some(other) != fs_type) {
            return Err(Fault::Invalid("one volume cannot have two file systems".to_owned()));
        }
        let formatted = kind == Kind::Image && !mounts.is_empty() && encryption.is_none();
        Ok(Self { kind, pool: parameters.get(POOL).cloned(), fs_type, formatted, encryption })
    }
}

/// Size and parameters of an inline volume, from the attributes in the pod's specification.
pub(super) fn ephemeral(context: &Texts) -> Result<(CapacityRange, Texts), Fault> {
    let own = context.iter().filter(|(key, _)| !key.starts_with("csi.storage.k8s.io/"));
    let mut parameters: Texts = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    let required = parameters.remove(SIZE).map(|text| quantity(&text)).transpose()?;
    Ok((CapacityRange { required, limit: None }, parameters))
}

/// Parameters that may change later, as a VolumeAttributesClass has them: how many files a directory may have, if said.
pub(super) fn files(parameters: &Texts) -> Result<Option<u64>, Fault> {
    if let Some(key) = parameters.keys().find(|key| *key != FILES) {
        return Err(Fault::Invalid(format!(
            "local volumes have no mutable parameter {key:?}; there is {FILES}"
        )));
    }
    let Some(text) = parameters.get(FILES) else { return Ok(None) };
    match text.parse::<u64>() {
        Ok(number) if number > 0 => Ok(Some(number)),
        _ => Err(Fault::Invalid(format!("{FILES} {text:?} is no number of files"))),
    }
}

/// Refuses parameters where there are none, as for snapshots.
pub(super) fn none(parameters: &Texts) -> Result<(), Fault> {
    match parameters.keys().next() {
        None => Ok(()),
        Some(key) => Err(Fault::Invalid(format!("local snapshots have no parameter {key:?}"))),
    }
}

/// Bytes, as Kubernetes writes quantities: `1073741824`, `1Gi`, `500M`.
fn quantity(text: &str) -> Result<u64, Fault> {
    const SUFFIXES: [(&str, u64); 8] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
    ];
    let found = SUFFIXES.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)));
    let (number, unit) = found.unwrap_or((text, 1));
    let bytes =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|&bytes| bytes > 0);
    bytes.ok_or_else(|| Fault::Invalid(format!("{SIZE} {text:?} is no size: write it like 1Gi")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{AccessMode, MountAccess};

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn access(kind: AccessType) -> Vec<Access> {
        vec![Access { mode: AccessMode::SingleNodeWriter, kind }]
    }

    fn mount(fs_type: Option<FsType>) -> Vec<Access> {
        access(AccessType::Mount(MountAccess { fs_type, ..MountAccess::default() }))
    }

    #[test]
    fn the_kind_follows_from_the_use() {
        let kind = |pairs: &[_], access: &[Access]| {
            Parameters::parse(&texts(pairs), access).map(|held| (held.kind, held.fs_type, held.formatted))
        };
        let (ext4, xfs) = (Some(FsType::Ext4), Some(FsType::Xfs));
        for (pairs, access, expected) in [
            (&[][..], mount(None), (Kind::Directory, None, false)),
            (&[], access(AccessType::Block), (Kind::Image, None, false)),
            (&[("type", "image")], mount(None), (Kind::Image, None, true)),
            (&[("type", "image")], mount(xfs), (Kind::Image, xfs, true)),
            (&[("type", "image"), ("fsType", "ext4")], mount(None), (Kind::Image, ext4, true)),
            (&[("type", "image"), ("fsType", "ext4")], mount(ext4), (Kind::Image, ext4, true)),
            (&[("encryption", "luks2")], mount(None), (Kind::Image, None, false)),
        ] {
            assert_eq!(kind(pairs, &access).unwrap(), expected, "{pairs:?}");
        }
        for (pairs, access) in [
            (&[("type", "directory")][..], access(AccessType::Block)),
            (&[("type", "directory"), ("encryption", "luks2")], mount(None)),
            (&[("type", "tape")], mount(None)),
            (&[("tpye", "image")], mount(None)),
            (&[("fsType", "ntfs")], mount(None)),
            (&[("fsType", "ext4")], mount(xfs)),
            (&[("type", "image")], [mount(xfs), mount(ext4)].concat()),
        ] {
            assert!(matches!(kind(pairs, &access), Err(Fault::Invalid(_))), "{pairs:?}");
        }
    }

    #[test]
    fn inline_volumes_have_a_size() {
        let context = texts(&[("csi.storage.k8s.io/ephemeral", "true"), ("size", "1Gi"), ("type", "image")]);
        let (range, rest) = ephemeral(&context).unwrap();
        assert_eq!((range.required, rest), (Some(1 << 30), texts(&[("type", "image")])));
        for bad in ["", "x", "-1", "1.5Gi", "0", "99999999999999999999", "18446744073709551615Ti"] {
            assert!(ephemeral(&texts(&[("size", bad)])).is_err(), "{bad}");
        }
    }
}
