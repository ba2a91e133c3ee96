//! The application's ports: chosen for it where it asked for a free one, and waited for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time,
};

use crate::{
    app::{ports::ReservedPort, sidecar::AppFlag},
    proxy::Address,
};

/// Pauses between two looks at the application's port.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Puts a free port in the place of every port 0. They are kept free while the result lives.
pub(super) fn choose(apps: &mut [AppFlag]) -> io::Result<Vec<ReservedPort>> {
    let mut reserved = Vec::new();
    for app in apps {
        if let Address::Tcp(address) = &mut app.address
            && address.port() == 0
        {
            let port = ReservedPort::find()?;
            address.set_port(port.number());
            reserved.push(port);
        }
    }
    Ok(reserved)
}

/// The address of an app that has one.
pub(super) fn tcp(app: &AppFlag) -> Option<SocketAddr> {
    match app.address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    }
}

/// The application's main port.
pub(super) fn first(apps: &[AppFlag]) -> Option<Address> {
    let mut address = apps.first()?.address.clone();
    if let Address::Tcp(address) = &mut address
        && address.ip().is_unspecified()
    {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    Some(address)
}

/// Waits until somebody takes connections there.
pub(super) async fn wait(address: &Address) {
    let mut pause = PAUSE_FIRST;
    loop {
        let taken = match address {
            Address::Tcp(address) => TcpStream::connect(address).await.is_ok(),
            Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
        };
        if taken {
            return;
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{choose, first, tcp, wait};
    use crate::{app::sidecar::AppFlag, proxy::Address};

    #[test]
    fn a_free_port_is_chosen_where_it_is_asked_for() {
        let flags = ["grpc=:0", ":9090", "80=unix:/run/a"];
        let mut apps: Vec<AppFlag> =
            flags.iter().map(|text| text.parse().expect("well-formed")).collect();
        let reserved = choose(&mut apps).expect("there is one");
        assert_eq!(reserved.len(), 1);
        let ports: Vec<Option<u16>> =
            apps.iter().map(|app| tcp(app).map(|address| address.port())).collect();
        assert_eq!(ports, [Some(reserved[0].number()), Some(9090), None]);
        assert_eq!(first(&apps).map(|address| address.port()), Some(ports[0]));
    }

    #[tokio::test]
    async fn the_applications_port_is_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("bound"));
        tokio::time::timeout(Duration::from_secs(5), wait(&address)).await.expect("it listens");
    }
}
