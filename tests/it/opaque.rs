//! A database of the mesh: a server that speaks first and clients that know nothing of it, through two
//! sidecars that joined by token, as users set it up.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use crate::harness::{Mesh, SOON, eventually, metrics};

/// Speaks like a database: greets, answers each line, and says good-bye when its client has ended.
async fn database() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(b"ready\n").await?;
                let mut line = Vec::new();
                while let Ok(byte) = socket.read_u8().await {
                    line.push(byte);
                    if byte == b'\n' {
                        socket.write_all(&line.to_ascii_uppercase()).await?;
                        line.clear();
                    }
                }
                socket.write_all(b"bye\n").await?;
                socket.shutdown().await
            });
        }
    });
    (address, serving)
}

async fn read(socket: &mut TcpStream, length: usize) -> String {
    let mut text = vec![0; length];
    timeout(SOON, socket.read_exact(&mut text)).await.expect("in time").expect("open");
    String::from_utf8(text).expect("text")
}

const SERVICE: &str = "
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: db}
spec: {ports: [{name: sql, port: 5432, appProtocol: tcp}]}
";

const ONLY_WEB: &str = "
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: db}
spec:
  targetRefs: [{kind: Service, name: db}]
  action: Allow
  rules: [{from: [{services: [web]}]}]
";

#[tokio::test]
async fn a_database_of_the_mesh_is_reached_by_whom_may() {
    let (database, serving) = database().await;
    let mesh = Mesh::start().await;
    let app = format!("5432={database}");
    let server = mesh.sidecar("db", "db", &["--app", &app]).await;
    mesh.apply(&format!("{SERVICE}{ONLY_WEB}")).await;
    let upstream = ["--upstream", "db:5432=127.0.0.1:0"];
    let web = mesh.sidecar("web", "web", &upstream).await;
    let thief = mesh.sidecar("thief", "thief", &upstream).await;

    let mut socket = TcpStream::connect(web.upstream("db:5432")).await.expect("connects");
    assert_eq!(read(&mut socket, 6).await, "ready\n");
    socket.write_all(b"select 1\n").await.expect("open");
    assert_eq!(read(&mut socket, 9).await, "SELECT 1\n");
    socket.shutdown().await.expect("open");
    let mut rest = String::new();
    timeout(SOON, socket.read_to_string(&mut rest)).await.expect("in time").expect("an end");
    assert_eq!(rest, "bye\n");

    let mut refused = TcpStream::connect(thief.upstream("db:5432")).await.expect("connects");
    let mut came = Vec::new();
    let end = timeout(SOON, refused.read_to_end(&mut came)).await.expect("in time");
    assert!(end.is_err() && came.is_empty(), "{end:?} {came:?}");

    eventually(SOON, async || {
        let seen = metrics(server.address("metrics")).await;
        let of = |reason| {
            let labels = [("direction", "inbound"), ("method", "CONNECT"), ("reason", reason)];
            seen.sum("outrigger_requests_total", &labels)
        };
        let (done, denied) = (of(""), of("denied"));
        let bytes = seen.sum("outrigger_tcp_bytes_total", &[("direction", "inbound")]);
        let right = done > 0.5 && denied > 0.5 && bytes > 27.5;
        if right { Ok(()) } else { Err(format!("{done} done, {denied} denied, {bytes} bytes")) }
    })
    .await;
    serving.abort();
}
