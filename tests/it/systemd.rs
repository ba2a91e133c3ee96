//! Under systemd: what it is told by its protocol, what it gives, and the unit files of
//! `examples/systemd`.

use std::{
    fs, io,
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{Mesh, Place, Program, SOON, eventually, finish, interpreter, root};

/// What systemd hears.
struct Supervisor {
    heard: Arc<Mutex<Vec<String>>>,
}

impl Supervisor {
    fn new(place: &Place, name: &str) -> (Self, String) {
        let path = place.path(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::downgrade(&heard);
        // It always listens, as systemd does; it ends with the first message after the test.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let (Ok(length), Some(heard)) = (socket.recv(&mut buffer), hears.upgrade()) {
                let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
                heard.lock().unwrap().push(message);
            }
        });
        (Self { heard }, path.display().to_string())
    }

    /// Waits for a message that begins so, and takes it.
    async fn hears(&mut self, text: &str) -> String {
        eventually(SOON, || {
            let mut heard = self.heard.lock().unwrap();
            let at = heard.iter().position(|it| it.starts_with(text));
            let found = at.map(|at| heard.remove(at));
            std::future::ready(found.ok_or_else(|| format!("no {text}: {heard:?}")))
        })
        .await
    }
}

fn monotonic(message: &str) -> u64 {
    let text = message.split("MONOTONIC_USEC=").nth(1).expect("the time of the message");
    text.trim().parse().expect("microseconds")
}

#[tokio::test]
async fn both_roles_speak_the_protocol_and_take_what_the_unit_gives() {
    let place = Place::new();
    let (mut systemd, socket) = Supervisor::new(&place, "notify");
    let state = place.path("lib").display().to_string();
    let environment = [
        ("NOTIFY_SOCKET", socket.as_str()),
        ("WATCHDOG_USEC", "400000"),
        ("STATE_DIRECTORY", state.as_str()),
    ];
    let args = ["control-plane", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let args = args.map(str::to_owned);
    let mut control = Program::start_with(&place, "control-plane", &args, &environment).await;
    systemd.hears("READY=1").await;
    systemd.hears("STATUS=revision 0, 0 of 0 sidecars in sync, store ok").await;
    systemd.hears("WATCHDOG=1").await;
    assert!(
        fs::read_dir(place.path("lib")).unwrap().count() > 0,
        "its data is in $STATE_DIRECTORY"
    );
    control.signal(Signal::HUP);
    let first = monotonic(&systemd.hears("RELOADING=1").await);
    systemd.hears("READY=1").await;
    control.signal(Signal::HUP);
    assert!(monotonic(&systemd.hears("RELOADING=1").await) > first);
    systemd.hears("READY=1").await;

    // The token is a credential, the directory the unit's own, everything else the environment.
    let token = place.run(&["token", "create", "--service", "echo"]).await;
    place.write("credentials/outrigger-token", token.assert_done().stdout.trim());
    let credentials = place.path("credentials").display().to_string();
    let (mut beside, socket) = Supervisor::new(&place, "notify-sidecar");
    let state = place.path("lib-sidecar").display().to_string();
    let server = control.address("listen").to_string();
    let mut environment = vec![
        ("NOTIFY_SOCKET", socket.as_str()),
        ("WATCHDOG_USEC", "400000"),
        ("STATE_DIRECTORY", state.as_str()),
        ("CREDENTIALS_DIRECTORY", credentials.as_str()),
        ("OUTRIGGER_SERVICE", "echo"),
        ("OUTRIGGER_CONTROL_PLANE", server.as_str()),
    ];
    let names = ["INBOUND", "OUTBOUND", "ADMIN", "METRICS", "HEALTH"];
    let names = names.map(|name| format!("OUTRIGGER_{name}"));
    environment.extend(names.iter().map(|name| (name.as_str(), "127.0.0.1:0")));
    let sidecar = ["sidecar".to_owned()];
    let mut sidecar = Program::start_with(&place, "sidecar", &sidecar, &environment).await;
    beside.hears("STATUS=starting").await;
    beside.hears("READY=1").await;
    beside.hears("STATUS=ready, revision 0").await;
    beside.hears("WATCHDOG=1").await;
    let kept = place.path("lib-sidecar/default.echo");
    assert!(fs::read_dir(&kept).unwrap().count() > 0, "{} holds its identity", kept.display());
    systemd.hears("STATUS=revision 0, 1 of 1 sidecars in sync, store ok").await;

    // Without its control plane it says so, and goes on.
    assert_eq!(control.stop(SOON).await.code(), Some(0));
    systemd.hears("STOPPING=1").await;
    beside.hears("STATUS=ready, revision 0, no control plane").await;
    assert_eq!(sidecar.stop(SOON).await.code(), Some(0));
    beside.hears("STOPPING=1").await;
}

#[tokio::test]
async fn a_token_of_several_uses_starts_containers_until_it_is_used_up() {
    let mesh = Mesh::start().await;
    let token = mesh.place.run(&["token", "create", "--service", "echo", "--uses", "2"]).await;
    let file = mesh.place.write("echo.token", token.assert_done().stdout.trim());
    let args = |data: &str| {
        let mut args = vec!["sidecar".to_owned(), "--service".into(), "echo".into()];
        for name in ["inbound", "outbound", "admin", "metrics", "health"] {
            args.extend([format!("--{name}"), "127.0.0.1:0".into()]);
        }
        args.extend(["--control-plane".into(), mesh.control.address("listen").to_string()]);
        args.extend(["--token-file".into(), file.display().to_string()]);
        args.extend(["--data".into(), mesh.place.path(data).display().to_string()]);
        args
    };
    // As two containers of one image, each with a fresh disk.
    let one = Program::start(&mesh.place, "one", &args("one")).await;
    let _two = Program::start(&mesh.place, "two", &args("two")).await;
    let health = one.address("health").to_string();
    let said = mesh.place.run(&["healthcheck", "--health", &health]).await;
    said.assert_done();
    let metrics = mesh.control.address("metrics").to_string();
    for more in [&[][..], &["--live"]] {
        let ask = [&["healthcheck", "control-plane", "--health", &metrics][..], more].concat();
        mesh.place.run(&ask).await.assert_done();
    }
    let mut third = Program::begin(&mesh.place, "three", &args("three"), &[]);
    assert_eq!(third.end(SOON).await.code(), Some(1));
    let log = third.log();
    assert!(log.contains("for joining 2 times, and that was done"), "{log}");
}

/// A credential that can not be looked at is not taken for one that is missing.
#[tokio::test]
async fn a_credential_that_can_not_be_read_is_named() {
    let place = Place::new();
    let credentials = place.path("credentials");
    fs::create_dir(&credentials).expect("made");
    let token = credentials.join("outrigger-token");
    std::os::unix::fs::symlink("outrigger-token", &token).expect("made");
    let credentials = credentials.display().to_string();
    let environment = [
        ("CREDENTIALS_DIRECTORY", credentials.as_str()),
        ("OUTRIGGER_SERVICE", "echo"),
        ("OUTRIGGER_CONTROL_PLANE", "127.0.0.1:1"),
    ];
    let mut sidecar = Program::begin(&place, "sidecar", &["sidecar".to_owned()], &environment);
    assert_eq!(sidecar.end(SOON).await.code(), Some(1));
    let expected = format!("{}: Too many levels of symbolic links", token.display());
    assert!(sidecar.log().contains(&expected), "{}", sidecar.log());
}

/// The unit files as they would be installed, but with the program where it is.
fn install(place: &Place) -> io::Result<Vec<String>> {
    let mut units = Vec::new();
    for entry in fs::read_dir(root().join("examples/systemd"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "service") {
            let text = fs::read_to_string(&path)?;
            let text = text.replace("/usr/local/bin/outrigger", env!("CARGO_BIN_EXE_outrigger"));
            let name = Path::new(path.file_name().expect("a file")).display().to_string();
            units.push(place.write(&format!("units/{name}"), &text).display().to_string());
        }
    }
    Ok(units)
}

#[tokio::test]
async fn the_unit_files_are_sound() {
    let Some(analyze) = interpreter("systemd-analyze") else { return };
    let place = Place::new();
    let units = install(&place).unwrap();
    assert_eq!(units.len(), 2, "{units:?}");
    for unit in units {
        // An instance of the template.
        let unit = match unit.strip_suffix("@.service") {
            Some(name) => {
                let instance = format!("{name}@orders.service");
                fs::copy(&unit, &instance).unwrap();
                instance
            }
            None => unit,
        };
        let args = ["verify", "--recursive-errors=no", "--man=no", unit.as_str()];
        let said = finish(place.command(&analyze, &args), Duration::from_secs(60)).await;
        if said.stderr.contains("Failed to initialize manager") {
            println!("skipped: systemd-analyze has no manager here");
            return;
        }
        // Before version 253 there is no such type.
        let old = |line: &&str| line.contains("service type, ignoring: notify-reload");
        let said: Vec<_> = said.stderr.lines().filter(|line| !old(line)).collect();
        assert!(said.is_empty(), "{said:?}");
    }
}
