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
    /// As which an image is formatted when it is made; `None`: not then.
    pub(super) fs_type: Option<FsType>,
    /// As the driver's encryption wants it.
    pub(super) encryption: Option<String>,
}

/// The kind: `directory` or `image`. Left out, block volumes are images and others directories.
const TYPE: &str = "type";
/// The pool's name.
const POOL: &str = "pool";
/// Inline volumes: the size, in bytes or with a suffix as Kubernetes writes quantities.
const SIZE: &str = "size";

impl Parameters {
    /// Checks parameters, for a volume that is to be used in all the ways of `access`.
    pub(super) fn parse(parameters: &Texts, access: &[Access]) -> Result<Self, Fault> {
        if let Some(key) =
            parameters.keys().find(|key| ![TYPE, POOL, encryption::PARAMETER].contains(&key.as_str()))
        {
            return Err(Fault::Invalid(format!(
                "there is no parameter {key:?} for local volumes; there are {TYPE}, {POOL} and {}",
                encryption::PARAMETER
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
        let mut named = mounts.iter().filter_map(|mount| mount.fs_type);
        let fs_type = named.next();
        if named.any(|other| Some(other) != fs_type) {
            return Err(Fault::Invalid("one volume cannot have two file systems".to_owned()));
        }
        let formatted = kind == Kind::Image && !mounts.is_empty() && encryption.is_none();
        let fs_type = match kind {
            Kind::Image => formatted.then(|| fs_type.unwrap_or(FsType::Ext4)),
            Kind::Directory => fs_type,
        };
        Ok(Self { kind, pool: parameters.get(POOL).cloned(), fs_type, encryption })
    }
}

/// Size and parameters of an inline volume, from the attributes in the pod's specification.
pub(super) fn ephemeral(context: &Texts) -> Result<(CapacityRange, Texts), Fault> {
    let own = context.iter().filter(|(key, _)| !key.starts_with("csi.storage.k8s.io/"));
    let mut parameters: Texts = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    let required = parameters.remove(SIZE).map(|text| quantity(&text)).transpose()?;
    Ok((CapacityRange { required, limit: None }, parameters))
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
            Parameters::parse(&texts(pairs), access).map(|held| (held.kind, held.fs_type))
        };
        assert_eq!(kind(&[], &mount(None)).unwrap(), (Kind::Directory, None));
        assert_eq!(kind(&[], &access(AccessType::Block)).unwrap(), (Kind::Image, None));
        assert_eq!(kind(&[("type", "image")], &mount(None)).unwrap(), (Kind::Image, Some(FsType::Ext4)));
        assert_eq!(
            kind(&[("type", "image")], &mount(Some(FsType::Xfs))).unwrap(),
            (Kind::Image, Some(FsType::Xfs))
        );
        assert_eq!(kind(&[("encryption", "luks2")], &mount(None)).unwrap(), (Kind::Image, None));
        for (pairs, access) in [
            (&[("type", "directory")][..], access(AccessType::Block)),
            (&[("type", "directory"), ("encryption", "luks2")], mount(None)),
            (&[("type", "tape")], mount(None)),
            (&[("tpye", "image")], mount(None)),
            (&[("type", "image")], [mount(Some(FsType::Xfs)), mount(Some(FsType::Ext4))].concat()),
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
