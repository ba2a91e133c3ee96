//! The application's ports, chosen for it where it asked for a free one.

use std::{io, net::SocketAddr};

use crate::{
    app::{ports::ReservedPort, sidecar::AppFlag},
    proxy::Address,
};

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

#[cfg(test)]
mod tests {
    use super::{choose, tcp};
    use crate::app::sidecar::AppFlag;

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
    }
}
