//! kubernetes-csi's own suite, csi-sanity, against each configuration of the local driver.
//!
//! It is a Go program that is no Debian package: `CAIRN_CSI_SANITY` names it, and without it the test says that it is skipped.

#![allow(clippy::unwrap_used)]

mod lab;

use lab::{Lab, MIB, obstacle};
use std::{env, fs, path::PathBuf, process::Command};

struct Configuration {
    name: &'static str,
    parameters: &'static str,
    access: &'static str,
    mebibytes: i64,
}

const CONFIGURATIONS: &[Configuration] = &[
    Configuration { name: "directory", parameters: "type: directory", access: "mount", mebibytes: 8 },
    Configuration {
        name: "image ext4",
        parameters: "type: image\nfsType: ext4",
        access: "mount",
        mebibytes: 32,
    },
    Configuration {
        name: "image xfs",
        parameters: "type: image\nfsType: xfs",
        access: "mount",
        mebibytes: 320,
    },
    Configuration { name: "block", parameters: "type: image", access: "block", mebibytes: 8 },
];

#[tokio::test]
async fn csi_sanity_passes() {
    let suite = env::var_os("CAIRN_CSI_SANITY").map(PathBuf::from);
    let Some(suite) = suite.filter(|_| obstacle().is_none()) else {
        println!("skipped: {}", obstacle().unwrap_or("CAIRN_CSI_SANITY does not name csi-sanity"));
        return;
    };
    for pool in [lab::Pools::Plain, lab::Pools::Xfs] {
        let mut lab = Lab::with_pools(pool, "");
        lab.clients().await;
        for Configuration { name, parameters, access, mebibytes } in CONFIGURATIONS {
            let grows = !parameters.contains("ext4") || lab::may_grow_ext4();
            if !grows {
                println!("skipped: {name}: growing ext4 in use needs CAP_SYS_RESOURCE");
            }
            let expanded = if grows { 2 * mebibytes } else { *mebibytes };
            let file = lab.root().join("parameters.yaml");
            fs::write(&file, format!("{parameters}\n")).unwrap();
            let output = Command::new(&suite)
                .arg(format!("-csi.endpoint={}", lab.root().join("run/local.sock").display()))
                .arg(format!("-csi.mountdir={}", lab.target("sanity/mount")))
                .arg(format!("-csi.stagingdir={}", lab.target("sanity/staging")))
                .arg(format!("-csi.testvolumeparameters={}", file.display()))
                .arg(format!("-csi.testvolumeaccesstype={access}"))
                .arg(format!("-csi.testvolumesize={}", mebibytes * MIB))
                .arg(format!("-csi.testvolumeexpandsize={}", expanded * MIB))
                .arg("--ginkgo.no-color")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let summary = text.lines().rev().find(|line| line.contains(" Passed ")).unwrap_or("no summary");
            println!("{name} on {pool:?}: {summary}");
            assert!(output.status.success(), "{name} on {pool:?}:\n{text}\n{}", lab.log());
            assert_eq!(lab.leaks(), Vec::<String>::new(), "{name} on {pool:?}");
        }
    }
}
