//! A free port for somebody else: one that stays free until that other process listens on it. The
//! system's own choice would not do, because between our closing it and the other's opening it the
//! system gives it away again, to any outgoing connection.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    ops::RangeInclusive,
    os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr as UnixAddress},
};

/// Where the system takes its own choices from, when it does not say so.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;
/// Below these stand the ports that people choose.
const LOWEST: u16 = 20_000;
/// A machine on which so many are taken has other problems.
const TRIES: usize = 200;

/// A port of the loopback that was free and that no other process of this program takes while this
/// value lives. It is not bound: whoever it is for can bind it in whatever way.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    /// An abstract Unix socket named after the port; the system frees it with the process.
    _mark: std::os::unix::net::UnixDatagram,
}

impl ReservedPort {
    /// Finds one.
    ///
    /// # Errors
    /// When none of many tries was free.
    pub fn find() -> io::Result<Self> {
        let candidates = outside(&ephemeral());
        for _ in 0..TRIES {
            let port = fastrand::u16(candidates.clone());
            let name = format!("outrigger-port-{port}");
            let Ok(mark) = UnixAddress::from_abstract_name(name)
                .and_then(|name| std::os::unix::net::UnixDatagram::bind_addr(&name))
            else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { port, _mark: mark });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on the loopback"))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.port
    }
}

fn ephemeral() -> RangeInclusive<u16> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) if low < high => low..=high,
        _ => EPHEMERAL,
    }
}

/// The larger part of the unprivileged ports that the system does not choose from; all of them when
/// it chooses from nearly all.
fn outside(ephemeral: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let below = LOWEST..=ephemeral.start().saturating_sub(1);
    let above = ephemeral.end().saturating_add(1).max(LOWEST)..=u16::MAX;
    let larger = if below.len() >= above.len() { below } else { above };
    if larger.len() >= 1000 { larger } else { LOWEST..=u16::MAX }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::TcpListener};

    use super::{ReservedPort, outside};

    #[test]
    fn ports_are_different_and_can_be_bound() {
        let ports: Vec<_> = (0..50).map(|_| ReservedPort::find().expect("free")).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(ReservedPort::number).collect();
        assert_eq!(numbers.len(), ports.len());
        for number in numbers {
            TcpListener::bind(("127.0.0.1", number)).expect("nobody else has it");
        }
    }

    #[test]
    fn the_systems_own_range_is_left_to_it() {
        for (system, expected) in [
            (32768..=60999, 20_000..=32767),
            (15000..=40000, 40001..=u16::MAX),
            (1024..=65535, 20_000..=u16::MAX),
            (1024..=65000, 20_000..=u16::MAX),
        ] {
            assert_eq!(outside(&system), expected, "{system:?}");
        }
    }
}
