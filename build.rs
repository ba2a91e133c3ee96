//! Compiles `proto/` with protox, a protobuf compiler in Rust: a build needs no system `protoc`.
//! The encoded descriptor set goes to `OUT_DIR` as it is, for server reflection and for reading
//! YAML by descriptor.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

#[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts by the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = fs::read_dir("proto/outrigger/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<PathBuf>, _>>()?;
    files.push(PathBuf::from("examples/shop/shop.proto"));
    files.sort();

    let mut compiler = protox::Compiler::new(["proto", "examples/shop"])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let descriptors = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    tonic_prost_build::configure()
        .compile_fds(prost_types::FileDescriptorSet::decode(descriptors.as_slice())?)?;

    // The tests' own service, apart: it is no part of what the program describes of itself.
    println!("cargo::rerun-if-changed=tests/interop/echo.proto");
    if Path::new("tests/interop/echo.proto").exists() {
        let mut compiler = protox::Compiler::new(["tests/interop"])?;
        compiler.include_imports(true).open_file("echo.proto")?;
        tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
