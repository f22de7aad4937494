//! Compiles the protocol definitions with protox, so that no `protoc` is needed on the machine.

use std::path::Path;

/// The feature and the definitions that it asks for.
const SETS: [(&str, &[&str]); 3] =
    [("cri", &["cri"]), ("csi", &["csi", "pluginregistration"]), ("management", &["management"])];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (feature, names) in SETS {
        let wanted = std::env::var_os(format!("CARGO_FEATURE_{}", feature.to_uppercase())).is_some();
        for name in names {
            let file = format!("proto/{name}.proto");
            println!("cargo::rerun-if-changed={file}");
            if wanted {
                let descriptors = protox::compile([Path::new(&file)], [Path::new("proto")])?;
                tonic_prost_build::configure().generate_default_stubs(true).compile_fds(descriptors)?;
            }
        }
    }
    Ok(())
}
