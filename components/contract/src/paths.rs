//! Where things are on a node.

/// CRI v1, RuntimeService and ImageService; root's alone.
pub const CRI_SOCKET: &str = "/run/cairn/cri.sock";
/// The CSI drivers' configuration, [`crate::storage::StorageConfig`]; written by the builder.
pub const CSI_CONFIG: &str = "/etc/cairn/csi.toml";
/// The CSI drivers' sockets, `<backend>.sock`, and what they lose at a reboot: records of what is mounted where.
pub const CSI_RUN: &str = "/run/cairn/csi";
/// What the CSI drivers keep.
pub const CSI_STATE: &str = "/var/lib/cairn/csi";
/// Local volumes on the state disk.
pub const CSI_POOL: &str = "/var/lib/cairn/volumes";
/// Where disks with local volumes are mounted, by name of the pool.
pub const CSI_POOL_DISKS: &str = "/var/lib/cairn/pools";
/// The kubelet's directory: volumes are mounted below it.
pub const KUBELET_STATE: &str = "/var/lib/kubelet";
/// Where the kubelet looks for the sockets of plugins that register.
pub const PLUGINS_REGISTRY: &str = "/var/lib/kubelet/plugins_registry";
/// What the runtime loses at a reboot: shim sockets, pinned namespaces, mounts.
pub const CRI_RUN: &str = "/run/cairn/cri";
/// What the runtime keeps: content, layers, records of sandboxes and containers.
pub const CRI_STATE: &str = "/var/lib/cairn/cri";
/// The runtime's configuration, [`crate::runtime::RuntimeConfig`]; written by the builder.
pub const CRI_CONFIG: &str = "/etc/cairn/cri.toml";
/// Registry hosts, `<host>/hosts.toml` in containerd's form; `cairn-node` writes it from the machine config.
pub const CERTS_D: &str = "/etc/cairn/certs.d";
/// The node's registry credentials, in the form of Docker's `config.json`; need not exist.
pub const REGISTRY_AUTH: &str = "/etc/cairn/registry-auth.json";
/// Images baked in: [`crate::baked::BakedIndex`] in `index.json`, configs and unpacked layers beside it.
pub const BAKED_IMAGES: &str = "/usr/share/cairn/images";
/// Our CNI plugins, links to one program; part of the verified root.
pub const CNI_OWN: &str = "/usr/libexec/cairn/cni";
/// CNI plugins that add-ons bring, in their usual place. On the image a link into the writable state.
pub const CNI_BIN: &str = "/opt/cni/bin";
/// CNI network configurations; the first file by name is the pods' default network.
pub const CNI_CONF: &str = "/etc/cni/net.d";
/// Where NRI plugins connect; they know it as `/var/run/nri/nri.sock`, which is the same place.
pub const NRI_SOCKET: &str = "/run/nri/nri.sock";
/// NRI plugins that the runtime starts. On the image a link into the writable state.
pub const NRI_PLUGINS: &str = "/opt/nri/plugins";
/// Their configurations.
pub const NRI_CONFIG: &str = "/etc/nri/conf.d";
/// Definitions of further networks, for pods that ask for them by annotation.
pub const CNI_NETWORKS: &str = "/etc/cni/networks.d";
/// The image's manifest as the node knows it (no digests of itself): [`crate::manifest::ImageRelease`].
pub const RELEASE: &str = "/usr/lib/cairn/release.json";
/// Machine config as applied in this boot, after it was found and checked.
pub const MACHINE_CONFIG: &str = "/run/cairn/machine.toml";
/// The node's own programs.
pub const LIBEXEC: &str = "/usr/libexec/cairn";
/// Name of the systemd credential (SMBIOS type 11 or fw_cfg) that carries the machine config.
pub const MACHINE_CREDENTIAL: &str = "cairn.machine";
/// Label of a disk or ISO that carries `machine.toml`.
pub const MACHINE_DISK_LABEL: &str = "CAIRN";
/// TCP port of the management API.
pub const MANAGEMENT_PORT: u16 = 50443;
/// Kubelet, when the profile bakes it in.
pub const KUBELET: &str = "/usr/bin/kubelet";
/// Kubelet's configuration: the image's part.
pub const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet.yaml";
