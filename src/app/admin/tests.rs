//! The surfaces as callers see them, over real sockets.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

use super::{Address, AdminView, BindError, HealthView, Listener, Server, Surface};

const BOUND: Duration = Duration::from_secs(20);

#[derive(Default)]
struct View {
    missing: Mutex<Vec<String>>,
    filter: Mutex<String>,
    draining: AtomicBool,
}

impl HealthView for View {
    fn missing(&self) -> Vec<String> {
        self.missing.lock().expect("whole").clone()
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}

impl AdminView for View {
    fn config(&self) -> serde_json::Value {
        json!({"revision": 42})
    }

    fn endpoints(&self) -> serde_json::Value {
        json!([])
    }

    fn certificates(&self) -> serde_json::Value {
        json!([])
    }

    fn logging(&self) -> String {
        self.filter.lock().expect("whole").clone()
    }

    fn set_logging(&self, filter: &str) -> Result<(), String> {
        if filter == "wrong" {
            return Err("no such level".to_owned());
        }
        filter.clone_into(&mut self.filter.lock().expect("whole"));
        Ok(())
    }

    fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

async fn start(address: &str, surface: Surface) -> Server {
    let address = address.parse().expect("an address");
    let listener = Listener::bind(&address).await.expect("bound");
    Server::start(listener, surface).expect("local")
}

async fn dial(server: &Server) -> TcpStream {
    let Address::Tcp(address) = server.address() else { panic!("not TCP") };
    TcpStream::connect(address).await.expect("connected")
}

/// Sends a request and reads until the connection ends.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(BOUND, stream.read_to_end(&mut answer));
    // A reset is an end too: whoever refuses a request need not read the rest of it.
    let _end = read.await.expect("ends");
    String::from_utf8(answer).expect("text")
}

async fn ask(server: &Server, line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(dial(server).await, &request).await
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

const LOCAL: &str = "host: localhost\r\n";

#[tokio::test]
async fn admin_shows_and_does() {
    let view = Arc::new(View::default());
    let server = start("127.0.0.1:0", Surface::Admin(Arc::<View>::clone(&view))).await;
    for (line, request_body, code, expected) in [
        ("GET /ready", "", "200", "ready\n"),
        ("GET /live", "", "200", "live\n"),
        ("GET /config", "", "200", "{\n  \"revision\": 42\n}\n"),
        ("GET /endpoints", "", "200", "[]\n"),
        ("GET /certificates?x", "", "200", "[]\n"),
        ("GET /metrics", "", "200", "# EOF\n"),
        ("HEAD /metrics", "", "200", ""),
        ("POST /logging", "outrigger=debug\n", "200", "outrigger=debug\n"),
        ("GET /logging", "", "200", "outrigger=debug\n"),
        ("POST /logging", "wrong", "400", "no such level\n"),
        ("DELETE /logging", "", "405", "only GET, HEAD, POST\n"),
        ("GET /drain", "", "405", "only POST\n"),
        ("POST /config", "", "405", "only GET, HEAD\n"),
        ("GET /secrets", "", "404", "not found\n"),
    ] {
        let answer = ask(&server, line, LOCAL, request_body).await;
        assert_eq!((status(&answer), body(&answer)), (code, expected), "{line}");
    }
    let large = "x".repeat(5000);
    assert_eq!(status(&ask(&server, "POST /logging", LOCAL, &large).await), "413");
    assert!(!view.draining.load(Ordering::Relaxed));
    assert_eq!(status(&ask(&server, "POST /drain", LOCAL, "").await), "202");
    assert!(view.draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn admin_refuses_whoever_does_not_mean_this_machine() {
    let view = Arc::new(View::default());
    let server = start("127.0.0.1:0", Surface::Admin(Arc::<View>::clone(&view))).await;
    for (line, headers, expected) in [
        ("POST /drain", "", "403"),
        ("POST /drain", "host: evil.example\r\n", "403"),
        ("POST /drain", "host: localhost\r\nhost: evil.example\r\n", "403"),
        ("POST /drain", "host: localhost\r\norigin: https://evil.example\r\n", "403"),
        ("POST /drain", "host: localhost\r\norigin: null\r\n", "403"),
        ("POST http://evil.example/drain", LOCAL, "403"),
        ("GET /config", "host: 127.0.0.1:15000\r\norigin: http://localhost:15000\r\n", "200"),
    ] {
        let answer = ask(&server, line, headers, "").await;
        assert_eq!(status(&answer), expected, "{line} {headers}");
    }
    assert!(!view.draining.load(Ordering::Relaxed));
}

#[tokio::test]
async fn admin_stands_on_this_machine_only() {
    let listener = Listener::bind(&"0.0.0.0:0".parse().expect("an address")).await.expect("bound");
    let refused = Server::start(listener, Surface::Admin(Arc::new(View::default())));
    assert!(matches!(refused, Err(BindError::NotLocal(_))));
    for wrong in ["", "localhost", "15000", "unix:", "[::1]"] {
        assert!(matches!(wrong.parse::<Address>(), Err(BindError::Malformed(_))), "{wrong}");
    }
}

#[tokio::test]
async fn admin_on_a_unix_socket_is_for_its_owner() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    let address = Address::Unix(path.clone());
    for _ in 0..2 {
        // The second time a file that nobody serves is in the way.
        let text = address.to_string();
        let server = start(&text, Surface::Admin(Arc::new(View::default()))).await;
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let stream = UnixStream::connect(&path).await.expect("connected");
        let request = "GET /config HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        assert_eq!(status(&exchange(stream, request).await), "200");
        let taken = Listener::bind(&address).await;
        assert!(matches!(taken, Err(BindError::Refused { .. })));
        server.stop(BOUND).await;
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    }
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "precious").expect("written");
    assert!(Listener::bind(&address).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
}

#[tokio::test]
async fn metrics_and_health_show_only_what_they_are_for() {
    let view = Arc::new(View::default());
    let metrics = start("127.0.0.1:0", Surface::Metrics(Arc::<View>::clone(&view))).await;
    let health = start("127.0.0.1:0", Surface::Health(Arc::<View>::clone(&view))).await;
    let plane = start("127.0.0.1:0", Surface::ControlPlane(Arc::<View>::clone(&view))).await;
    let host = "host: orders-1.example\r\n";
    for (server, line, code) in [
        (&metrics, "GET /metrics", "200"),
        (&metrics, "GET /ready", "404"),
        (&metrics, "GET /config", "404"),
        (&metrics, "POST /metrics", "405"),
        (&health, "GET /ready", "200"),
        (&health, "GET /live", "200"),
        (&health, "GET /metrics", "404"),
        (&health, "POST /drain", "404"),
        (&health, "POST /ready", "405"),
        (&plane, "GET /metrics", "200"),
        (&plane, "GET /ready", "200"),
        (&plane, "GET /live", "200"),
        (&plane, "POST /live", "405"),
        (&plane, "GET /certificates", "404"),
    ] {
        assert_eq!(status(&ask(server, line, host, "").await), code, "{line}");
    }
    let answer = ask(&metrics, "GET /metrics", host, "").await;
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    *view.missing.lock().expect("whole") = vec!["certificate".to_owned(), "app".to_owned()];
    let answer = ask(&health, "GET /ready", host, "").await;
    assert_eq!((status(&answer), body(&answer)), ("503", "not ready: certificate, app\n"));
    assert_eq!(status(&ask(&health, "GET /live", host, "").await), "200");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start("127.0.0.1:0", Surface::Health(Arc::new(View::default()))).await;
    let large = format!("host: a\r\nx: {}\r\n", "x".repeat(20_000));
    assert_eq!(status(&ask(&server, "GET /live", &large, "").await), "431");
    let many = format!("host: a\r\n{}", "x: y\r\n".repeat(70));
    assert_eq!(status(&ask(&server, "GET /live", &many, "").await), "431");
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_frees_the_port() {
    let server = start("127.0.0.1:0", Surface::Health(Arc::new(View::default()))).await;
    let mut idle = dial(&server).await;
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let mut head = [0; 12];
    idle.read_exact(&mut head).await.expect("answered");
    let address = server.address().clone();
    server.stop(BOUND).await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("closed in order");
    Listener::bind(&address).await.expect("free");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_says_nothing_is_let_go() {
    let server = start("127.0.0.1:0", Surface::Health(Arc::new(View::default()))).await;
    let mut silent = dial(&server).await;
    silent.write_all(b"GET /li").await.expect("sent");
    let mut rest = Vec::new();
    // Ends by the head's timeout; an error is as good an end.
    let _ended = silent.read_to_end(&mut rest).await;
}
