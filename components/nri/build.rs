//! Compiles the protocol definitions with protox, so that no `protoc` is needed on the machine.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/nri.proto", "proto/ttrpc.proto"].map(Path::new);
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let descriptors = protox::compile(files, [Path::new("proto")])?;
    // There are no services in them: what comes out is messages, which need prost and nothing else.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
