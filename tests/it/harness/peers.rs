//! Other implementations: where `.ci/peers` put them, and saying so when they are not there.

use std::path::PathBuf;

/// The directory that `.ci/peers` fills.
fn directory() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OUTRIGGER_PEERS").unwrap_or_else(|| {
        let cache = set("XDG_CACHE_HOME")
            .or_else(|| Some(set("HOME")?.join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        cache.join("outrigger/peers")
    })
}

/// The path of a peer, such as `bin/grpcurl`; `None`, and a line that says so, when it is not there.
pub(crate) fn peer(name: &str) -> Option<String> {
    let path = directory().join(name);
    if path.exists() {
        return Some(path.display().to_string());
    }
    println!("skipped: no {}; .ci/peers brings it", path.display());
    None
}

/// The path of an interpreter; `None`, and a line that says so, when there is none.
pub(crate) fn interpreter(name: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|path| path.join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: there is no {name} in PATH");
    }
    found.map(|path| path.display().to_string())
}
