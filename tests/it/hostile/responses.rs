//! Applications that answer in HTTP/1.1 what two readers could read in two ways, or more than they
//! were asked for: their own caller is told, and nobody ever gets what was not an answer to them.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::check_unharmed;
use crate::harness::{
    Certificates, Place, Program, SOON, StaticPair, heavy, sidecar_args, spiffe_id, workload_yaml,
};

/// What an application answers, each as it is, and before an answer that nobody asked for.
const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na",
    "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\na",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\na",
    "HTTP/1.1 200 OK\r\nA: 1\r\n B: 2\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\na",
    "HTTP/1.1 200 OK\r\nA: 1\nContent-Length: 1\r\n\r\na",
    "HTTP/1.1 2000 OK\r\nContent-Length: 1\r\n\r\na",
    "HTTP/1.1 99 OK\r\nContent-Length: 1\r\n\r\na",
    "HTTP/2.0 200 OK\r\nContent-Length: 1\r\n\r\na",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "not HTTP at all\r\n\r\n",
    "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
    // In order, but for what follows.
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nSMUGGLED",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nSMUGGLED",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
];
const SMUGGLED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nSMUGGLED";

/// An application that answers `/N` with the N-th, and everything else in order.
async fn serve(mut socket: TcpStream) {
    let (mut all, mut buffer) = (String::new(), vec![0; 4096]);
    loop {
        let Ok(length @ 1..) = socket.read(&mut buffer).await else { return };
        all.push_str(&String::from_utf8_lossy(&buffer[..length]));
        while let Some(end) = all.find("\r\n\r\n") {
            let head: String = all.drain(..end + 4).collect();
            let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let answer = match path.parse::<usize>() {
                Ok(index) => format!("{}{SMUGGLED}", ANSWERS[index]),
                Err(_) => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_owned(),
            };
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// A pair of sidecars of which one is beside an application that speaks HTTP/1.1.
async fn pair(app: SocketAddr) -> Option<StaticPair> {
    let place = Place::new();
    let certificates = Certificates::new(&place)?;
    let service = "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: echo}\n\
        spec: {ports: [{name: main, port: 9090, appProtocol: http}]}\n";
    let file = place.write("server.yaml", service);
    let mut args = sidecar_args(&[&file]);
    args.extend(certificates.issue("server", &spiffe_id("echo")));
    args.extend(["--app".into(), format!("9090={app}")]);
    let server = Program::start(&place, "server", &args).await;
    let inbound = server.address("inbound").port();
    let workload = workload_yaml("echo-1", "echo", inbound, &spiffe_id("echo"));
    let file = place.write("client.yaml", &format!("{service}{workload}"));
    let mut args = sidecar_args(&[&file]);
    args.extend(certificates.issue("caller", &spiffe_id("caller")));
    let client = Program::start(&place, "client", &args).await;
    Some(StaticPair { server, client, certificates, place })
}

/// Asks for one path on a connection of its own and returns all that comes.
async fn ask(to: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(to).await.expect("connects");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: echo:9090\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("taken");
    let mut came = Vec::new();
    // A body that is broken off may end with a reset.
    drop(timeout(SOON, socket.read_to_end(&mut came)).await.expect("in time"));
    String::from_utf8_lossy(&came).into_owned()
}

#[tokio::test]
async fn answers_of_two_meanings_reach_nobody() {
    let _turn = heavy().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    let Some(pair) = pair(address).await else { return };
    let outbound = pair.client.address("outbound");
    for (index, answer) in ANSWERS.iter().enumerate() {
        let came = ask(outbound, &index.to_string()).await;
        assert!(came.starts_with("HTTP/1.1 "), "{answer:?}: {came:?}");
        assert!(!came.contains("SMUGGLED"), "{answer:?}: {came:?}");
        // What was left on the application's connection is nobody's answer.
        for _ in 0..2 {
            let came = ask(outbound, "good").await;
            assert!(came.ends_with("\r\n\r\ngood"), "after {answer:?}: {came:?}");
        }
    }
    serving.abort();
    check_unharmed(&pair).await;
}
