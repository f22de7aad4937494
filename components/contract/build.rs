//! Compiles the protocol definitions with protox, so that no `protoc` is needed on the machine.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for name in ["cri", "management"] {
        let wanted = std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some();
        let file = format!("proto/{name}.proto");
        println!("cargo::rerun-if-changed={file}");
        if wanted {
            let descriptors = protox::compile([Path::new(&file)], [Path::new("proto")])?;
            tonic_prost_build::configure().generate_default_stubs(true).compile_fds(descriptors)?;
        }
    }
    Ok(())
}
