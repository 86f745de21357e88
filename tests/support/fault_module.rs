//! The fault-injecting PKCS#11 module, built where it is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The fault module, built once.
pub fn fault_module() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = root.join("target/fault-module");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--offline",
            "--manifest-path",
        ])
        .arg(root.join("tests/support/fault-module/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    target.join("release/libfault_module.so")
}
