//! An image made of the machine's static busybox.

use cairn_contract::{
    baked::{BakedImage, BakedIndex},
    digest::Sha256Digest,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const IMAGE: &str = "cairn.local/busybox:test";

/// Busybox by the names that tests use.
const COMMANDS: &[&str] = &[
    "cat", "chown", "dd", "echo", "grep", "head", "hostname", "id", "ionice", "ip", "kill", "ls", "mkdir",
    "mknod", "mount", "nc", "readlink", "rm", "seq", "sh", "sleep", "stat", "stty", "test", "touch", "tr",
    "true", "tty", "wc", "yes",
];

pub(crate) fn digest(text: &[u8]) -> Sha256Digest {
    Sha256Digest::new(Sha256::digest(text).into())
}

/// [`IMAGE`], baked: a layer with busybox, and one with accounts and a page that is one of theirs.
pub(super) fn bake(directory: &Path) {
    let layers = [digest(b"lower"), digest(b"upper")];
    let [lower, upper] = layers.map(|layer| directory.join("layers").join(layer.hex()));
    fs::create_dir_all(lower.join("bin")).unwrap();
    fs::create_dir(lower.join("tmp")).unwrap();
    fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(BUSYBOX, lower.join("bin/busybox")).unwrap();
    for name in COMMANDS {
        symlink("busybox", lower.join("bin").join(name)).unwrap();
    }
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    fs::write(upper.join("etc/group"), "root:x:0:\ntty:x:5:\nwww:x:33:\nlogs:x:50:web\n").unwrap();
    fs::create_dir_all(upper.join("srv/web")).unwrap();
    fs::write(upper.join("srv/web/index"), "page\n").unwrap();
    chown(upper.join("srv/web/index"), Some(33), Some(33)).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin", "FROM_IMAGE=1"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": layers }, "history": []
    })
    .to_string();
    let image = BakedImage {
        names: vec![IMAGE.into()],
        config: digest(config.as_bytes()),
        manifest: digest(b"manifest"),
        layers: layers.to_vec(),
        size: 1 << 20,
    };
    fs::create_dir(directory.join("configs")).unwrap();
    fs::write(directory.join("configs").join(image.config.hex()), &config).unwrap();
    let index = serde_json::to_vec(&BakedIndex { images: vec![image] }).unwrap();
    fs::write(directory.join("index.json"), index).unwrap();
}
