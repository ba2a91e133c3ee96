//! Certificates for static mode, made by openssl as a user without a mesh CA makes them.

use std::{path::PathBuf, process::Command};

use super::{Place, root};

/// A CA of a test's own.
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// A new root in this place; `None`, and a line that says so, when there is no openssl.
    pub(crate) fn new(place: &Place) -> Option<Self> {
        Self::called(place, "tls")
    }

    /// One more root beside others.
    pub(crate) fn called(place: &Place, name: &str) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("skipped: no openssl; a package of that name brings it");
            return None;
        }
        let directory = place.path(name);
        let made = Self { directory };
        made.script(&[]);
        Some(made)
    }

    /// One of its files, such as `ca.pem`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn script(&self, args: &[&str]) {
        let made = Command::new(root().join("tests/interop/certificates.sh"))
            .arg(&self.directory)
            .args(args)
            .output()
            .expect("certificates.sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Issues a certificate for a service, and returns the flags that name it. A second one of the
    /// same name replaces the files.
    pub(crate) fn issue(&self, name: &str, id: &str) -> Vec<String> {
        self.script(&[name, id]);
        let file = |name: String| self.file(&name);
        vec![
            "--tls-cert".into(),
            file(format!("{name}.pem")),
            "--tls-key".into(),
            file(format!("{name}-key.pem")),
            "--tls-ca".into(),
            file("ca.pem".into()),
        ]
    }
}
