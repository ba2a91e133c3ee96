//! New connections with mutual TLS, straight to the server's sidecar.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{load::Count, process::Place};

/// How many are on their way at once.
const AT_ONCE: usize = 4;
/// The connection preface and empty settings (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Opens and closes connections for so long.
pub(crate) async fn connect_again_and_again(
    place: &Place,
    address: SocketAddr,
    time: Duration,
) -> Result<Count> {
    let until = Instant::now() + time;
    let connector = connector(place)?;
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let connector = connector.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while Instant::now() < until {
                drop(open(&connector, address).await?);
                done += 1;
            }
            Ok::<u64, anyhow::Error>(done)
        });
    }
    let mut all = Count::default();
    while let Some(ended) = tasks.join_next().await {
        all.done += ended??;
    }
    Ok(all)
}

/// Opens so many connections, which are idle then.
pub(crate) async fn open_many(
    place: &Place,
    address: SocketAddr,
    count: usize,
) -> Result<Vec<TlsStream<TcpStream>>> {
    let connector = connector(place)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(open(&connector, address).await?);
    }
    Ok(all)
}

/// One connection; the server's settings show that it accepted our certificate.
async fn open(connector: &TlsConnector, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("9090.echo.default.mesh")?;
    let mut stream = connector.connect(name, socket).await?;
    stream.write_all(PREFACE).await?;
    let mut first = [0; 9];
    stream.read_exact(&mut first).await.context("no settings")?;
    ensure!(first[3] == 4, "the first frame is not SETTINGS");
    Ok(stream)
}

fn connector(place: &Place) -> Result<TlsConnector> {
    // The group that all of them speak: who also speaks a post-quantum one is not to pay for it here.
    let kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&fs::read(place.path("tls/caller.pem"))?).collect();
    let key = PrivateKeyDer::from_pem_slice(&fs::read(place.path("tls/caller-key.pem"))?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_client_auth_cert(chain?, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes any server: who it is does not matter here, and it has no name that could be checked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
