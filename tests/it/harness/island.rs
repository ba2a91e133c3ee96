//! A network namespace of its own, joined to this one by a pair of devices that can be cut: packets
//! then go nowhere, and nobody hears of it, as when a cable is pulled or a firewall drops.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The namespace; it and its devices go with this value.
pub(crate) struct Island {
    name: String,
    far_device: String,
    /// Its address as it is reached from here.
    pub(crate) address: String,
}

impl Island {
    /// Makes one; `None` where that is not permitted.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = std::process::id();
        let name = format!("og{id}-{count}");
        let (near_device, far_device) = (format!("{name}a"), format!("{name}b"));
        // Of the range for carriers, which no test's machine is likely to use.
        let number = id.wrapping_add(count.wrapping_mul(7919));
        let net = |host: u32| {
            let (high, middle) = (64 + (number >> 14) % 64, (number >> 6) % 256);
            format!("100.{high}.{middle}.{}", ((number % 64) << 2) + host)
        };
        let island = Self { name: name.clone(), far_device, address: net(2) };
        let far = island.far_device.as_str();
        let done = ip(&["netns", "add", &name])
            && ip(&[
                "link",
                "add",
                &near_device,
                "type",
                "veth",
                "peer",
                "name",
                far,
                "netns",
                &name,
            ])
            && ip(&["addr", "add", &format!("{}/30", net(1)), "dev", &near_device])
            && ip(&["link", "set", &near_device, "up"])
            && ip(&["-n", &name, "addr", "add", &format!("{}/30", net(2)), "dev", far])
            && ip(&["-n", &name, "link", "set", "lo", "up"])
            && ip(&["-n", &name, "link", "set", far, "up"]);
        if !done {
            println!("skipped: no network namespaces; root and iproute2 bring them");
            return None;
        }
        Some(island)
    }

    /// From now on packets go nowhere, in either direction.
    pub(crate) fn cut(&self) {
        assert!(ip(&["-n", &self.name, "link", "set", &self.far_device, "down"]));
    }

    /// They go again.
    pub(crate) fn join(&self) {
        assert!(ip(&["-n", &self.name, "link", "set", &self.far_device, "up"]));
    }

    /// What makes a command line run on it.
    pub(crate) fn under(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).into()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // Its devices go with it. It may not have been made.
        ip(&["netns", "delete", &self.name]);
    }
}

/// Whether it could be done.
fn ip(args: &[&str]) -> bool {
    let quiet = || Stdio::null();
    let ran = Command::new("ip").args(args).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    ran.is_ok_and(|status| status.success())
}
