//! Whether keys, and what holds keys, are for their owner alone: the context's, those of a control
//! plane whose data directory the context leads to, and those of a sidecar on this machine. Roles and
//! commands refuse a key that others can read, but only at their next start; here it is said before.
//! A file that can not be looked at, because it is somebody else's, is left out.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::report::{Line, Report};
use crate::{
    app::context::Context,
    cli::{control_plane::quoted, words},
};

/// What a data directory has that says whose it is.
const STORE: &str = "mesh.redb";
/// What a control plane keeps for itself in its data directory.
const OF_CONTROL_PLANE: [&str; 6] =
    [STORE, "admin-key.pem", "authority.pem", "credentials.json", "root-key.pem", "rotation.pem"];

/// Those of a context, and of the control plane in whose data directory its key lies, if it does.
pub(super) fn of_context(context: &Context, contexts: &Path, report: &mut Report) {
    let mut private = vec![context.client_key.clone()];
    if let Some(data) = context.client_key.parent().filter(|data| data.join(STORE).exists()) {
        private.extend(OF_CONTROL_PLANE.map(|name| data.join(name)));
        private.sort();
        private.dedup();
    }
    // Whoever writes there says which control plane is believed.
    if let Some(mode) = mode(contexts).filter(|mode| mode & 0o022 != 0) {
        let what = format!("{} can be written by others: mode {mode:04o}", contexts.display());
        report.add(Line::warn("files", what).hint(chmod(contexts)));
    }
    look(&private, report);
}

/// Those that are named.
pub(super) fn look(private: &[PathBuf], report: &mut Report) {
    let found: Vec<_> = private.iter().filter_map(|path| Some((path, mode(path)?))).collect();
    let open = found.iter().filter(|(_, mode)| mode & 0o077 != 0);
    let lines: Vec<Line> = open.map(|(path, mode)| line(path, *mode)).collect();
    match (lines.is_empty(), found.len()) {
        (true, 0) => {}
        (true, count) => {
            let what = format!("{}, each for its owner alone", words::count(count, "private file"));
            report.add(Line::ok("files", what));
        }
        (false, _) => report.add_all(lines),
    }
}

fn line(path: &Path, mode: u32) -> Line {
    let what = format!("{} is not for its owner alone: mode {mode:04o}", path.display());
    Line::fail("files", what).hint(chmod(path))
}

fn chmod(path: &Path) -> String {
    format!("chmod 600 {}", quoted(&path.display().to_string()))
}

/// The permission bits; `None` when there is no such file, or it can not be seen.
fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|about| about.mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::{look, of_context};
    use crate::{app::context::Context, cli::check::report::Report};

    fn put(directory: &Path, name: &str, mode: u32) {
        let path = directory.join(name);
        fs::write(&path, "secret").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    }

    fn context(directory: &Path, key: &str) -> Context {
        Context {
            server: "127.0.0.1:15010".to_owned(),
            certificate_authority: directory.join("root.pem"),
            client_certificate: directory.join("admin.pem"),
            client_key: directory.join(key),
            namespace: None,
        }
    }

    #[test]
    fn each_file_that_others_get_at_is_named_with_its_mode_and_what_to_do() {
        for (files, key, expected) in [
            (&[][..], "admin-key.pem", "\n0 checks, all ok\n"),
            (
                &[("ana-key.pem", 0o600), ("root-key.pem", 0o644)][..],
                "ana-key.pem",
                "ok    files  1 private file, each for its owner alone\n\n1 check, all ok\n",
            ),
            (
                &[("admin-key.pem", 0o600), ("mesh.redb", 0o600), ("admin.pem", 0o644)],
                "admin-key.pem",
                "ok    files  2 private files, each for its owner alone\n\n1 check, all ok\n",
            ),
            (
                &[("admin-key.pem", 0o640), ("mesh.redb", 0o600), ("root-key.pem", 0o602)],
                "admin-key.pem",
                "\
fail  files  PLACE/admin-key.pem is not for its owner alone: mode 0640
             try: chmod 600 PLACE/admin-key.pem
fail  files  PLACE/root-key.pem is not for its owner alone: mode 0602
             try: chmod 600 PLACE/root-key.pem

2 checks: 2 failures, 0 warnings
",
            ),
            (
                &[("config.yaml", 0o664), ("key.pem", 0o600)],
                "key.pem",
                "\
warn  files  PLACE/config.yaml can be written by others: mode 0664
             try: chmod 600 PLACE/config.yaml
ok    files  1 private file, each for its owner alone

2 checks: 0 failures, 1 warning
",
            ),
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            for (name, mode) in files {
                put(directory.path(), name, *mode);
            }
            let mut report = Report::default();
            let contexts = directory.path().join("config.yaml");
            of_context(&context(directory.path(), key), &contexts, &mut report);
            let place = directory.path().display().to_string();
            assert_eq!(report.text(false).replace(&place, "PLACE"), expected);
        }
    }

    #[test]
    fn a_path_that_a_shell_would_take_apart_is_quoted() {
        let directory = tempfile::tempdir().expect("a directory");
        put(directory.path(), "a key.pem", 0o604);
        let mut report = Report::default();
        look(&[directory.path().join("a key.pem")], &mut report);
        assert!(report.text(false).contains("/a key.pem'\n"), "{}", report.text(false));
    }
}
