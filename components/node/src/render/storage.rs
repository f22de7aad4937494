//! The CSI driver's configuration: the image's, with this machine's disks.

use super::Rendered;
use cairn_contract::{
    machine::Storage,
    paths,
    storage::{BackendKind, StorageConfig},
};

/// The driver's file at [`paths::CSI_CONFIG`], if this machine has another than its image; `image` is what stands in the
/// image's.
///
/// # Errors
/// In words: what the machine config wants and the image does not have.
pub fn driver(machine: &Storage, image: Option<StorageConfig>) -> Result<Option<Rendered>, String> {
    if *machine == Storage::default() {
        return Ok(None);
    }
    let Some(mut config) = image else {
        return Err("storage: this image has no volumes; its profile's [storage] turns them on".to_owned());
    };
    if !machine.pools.is_empty() {
        if !config.backends.contains(&BackendKind::Local) {
            return Err(
                "storage.pools: this image has no local volumes; its profile's storage.local turns them on"
                    .to_owned(),
            );
        }
        config.pools.clone_from(&machine.pools);
    }
    config.metrics_address = machine.metrics_address.or(config.metrics_address);
    let text = toml::to_string(&config).map_err(|error| format!("storage: {error}"))?;
    Ok(Some(Rendered::public(paths::CSI_CONFIG, text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_contract::machine::MachineConfig;

    fn rendered(document: &str, image: Option<StorageConfig>) -> Result<Option<StorageConfig>, String> {
        let machine = MachineConfig::parse(document).unwrap().storage;
        Ok(driver(&machine, image)?.map(|file| {
            assert_eq!((file.path.to_str(), file.mode), (Some("/etc/cairn/csi.toml"), 0o644));
            toml::from_str(&String::from_utf8(file.contents).unwrap()).unwrap()
        }))
    }

    const POOL: &str = "[[storage.pools]]\nname = 'fast'\ndevice = '/dev/disk/by-id/virtio-fast'\n";
    const ADDRESS: &str = "[storage]\nmetrics_address = '127.0.0.1:10098'\n";

    fn image(backends: &[BackendKind]) -> StorageConfig {
        let metrics_address = "[::1]:10000".parse().ok();
        StorageConfig { backends: backends.to_vec(), metrics_address, ..StorageConfig::default() }
    }

    #[test]
    fn a_machine_without_disks_of_its_own_keeps_the_images_file() {
        assert_eq!(rendered("", None), Ok(None));
        assert_eq!(rendered("[storage]", Some(image(&BackendKind::ALL))), Ok(None));
    }

    #[test]
    fn the_machines_pools_and_address_stand_in_the_place_of_the_images() {
        let image = image(&BackendKind::ALL);
        let disks = rendered(POOL, Some(image.clone())).unwrap().unwrap();
        assert_eq!(disks.pools.len(), 1);
        assert_eq!(disks.pools[0].path.to_str(), Some("/var/lib/cairn/pools/fast"));
        assert_eq!(StorageConfig { pools: image.pools.clone(), ..disks.clone() }, image);
        // Once more over what it wrote: the same.
        assert_eq!(rendered(POOL, Some(disks.clone())), Ok(Some(disks)));
        let address = rendered(ADDRESS, Some(image.clone())).unwrap().unwrap();
        assert_eq!(address.metrics_address, "127.0.0.1:10098".parse().ok());
        assert_eq!(address.pools, image.pools);
    }

    #[test]
    fn what_the_image_lacks_is_said() {
        let refused = |document, image| rendered(document, image).unwrap_err();
        assert!(refused(POOL, Some(image(&[BackendKind::Nfs]))).contains("storage.local"));
        assert!(refused(ADDRESS, None).contains("no volumes"));
    }
}
