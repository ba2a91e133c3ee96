//! Nothing secret is where others could read it: not in logs, not on operators' ports, not in what
//! commands print, and on disk only in files of their owner.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::harness::{App, Mesh, get};

fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![below.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn nothing_secret_is_where_others_could_read_it() {
    let app = App::start("one").await;
    let mesh = Mesh::start_with(&["--log", "debug"]).await;
    let token = fs::read_to_string(mesh.token("probe").await).unwrap();
    let secret = token.trim().rsplit('.').next().unwrap()[20..60].to_owned();
    let server = mesh.server("echo-1", "echo", app.address).await;
    let used = fs::read_to_string(mesh.place.path("echo.token")).unwrap();
    let used = used.trim().rsplit('.').next().unwrap()[20..60].to_owned();
    let out = mesh.place.path("ana").display().to_string();
    let made =
        mesh.place.run(&["credential", "create", "ana", "--role", "viewer", "--out", &out]).await;
    made.assert_done();
    let key = fs::read_to_string(mesh.place.path("ana/ana-key.pem")).unwrap();
    let key = key.lines().nth(1).unwrap().to_owned();

    let mut shown = vec![made.stdout, made.stderr];
    for args in [
        &["status", "-o", "json"][..],
        &["token", "list", "-o", "json"],
        &["credential", "list", "-o", "json"],
        &["ca", "status", "-o", "json"],
        &["ca", "show"],
        &["audit", "-o", "json"],
        &["get", "all", "-o", "yaml"],
        &["check"],
    ] {
        let said = mesh.place.run(args).await;
        shown.extend([said.stdout, said.stderr]);
    }
    for path in ["/config", "/certificates", "/endpoints", "/metrics", "/ready", "/logging"] {
        shown.push(get(server.address("admin"), path).await.unwrap_or_default());
    }
    shown.push(get(server.address("metrics"), "/metrics").await.unwrap());
    shown.push(get(mesh.control.address("metrics"), "/metrics").await.unwrap());
    shown.extend([server.log(), mesh.control.log()]);
    let listed = mesh.place.run(&["credential", "list"]).await;
    assert!(listed.assert_done().stdout.contains("ana"), "{}", listed.stdout);
    for (what, secret) in [
        ("a token", &secret),
        ("a used token", &used),
        ("a key", &key),
        ("a key", &"PRIVATE KEY".to_owned()),
    ] {
        for text in &shown {
            assert!(!text.contains(secret.as_str()), "{what} is shown: {text}");
        }
    }
    // And on disk: what holds a key, or the hash of a token's secret, is its owner's alone.
    let mut secret_files = 0;
    for path in files(&mesh.place.path(".")) {
        let bytes = fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        if path.ends_with("mesh.redb") || holds("PRIVATE KEY") {
            secret_files += 1;
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
        }
        let is_token = path.extension().is_some_and(|it| it == "token");
        assert!(is_token || !(holds(&secret) || holds(&used)), "{} holds a token", path.display());
    }
    assert!(secret_files >= 6, "{secret_files}");

    // Keys that others can read are refused.
    let key = mesh.place.path("state/outrigger/control-plane/admin-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = mesh.place.run(&["status"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("others can read it"), "{}", refused.stderr);
}
