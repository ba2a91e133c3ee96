//! When an application is said to be well, and what it is asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch::channel,
    time::{Instant, timeout},
};
use tonic_health::ServingStatus;

use super::{Checks, Count, How, Port, Target, Verdict, follow, watch};
use crate::{proxy::Address, task::Tasks};

const LONG: Duration = Duration::from_secs(20);

/// Answers as it was told, and notes when it was asked.
struct Scripted {
    answers: VecDeque<Result<(), String>>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Target for Scripted {
    async fn look(&mut self) -> Result<(), String> {
        self.asked.lock().expect("whole").push(Instant::now());
        match self.answers.pop_front() {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// One letter for each look: `+` well, `-` not. Returns when it looked, and the verdicts one after
/// the other with when they came, in milliseconds.
async fn story(script: &str, random: f64) -> (Vec<u128>, Vec<(u128, &'static str)>) {
    let answers = script.chars().map(|c| if c == '+' { Ok(()) } else { Err("x".to_owned()) });
    let asked = Arc::default();
    let target = Scripted { answers: answers.collect(), asked: Arc::clone(&asked) };
    let (verdict, mut heard) = channel(Verdict::Unknown);
    let began = Instant::now();
    let mut verdicts = Vec::new();
    let checks = Checks::default();
    let following = follow(target, &checks, &verdict, || random);
    let listening = async {
        while heard.changed().await.is_ok() {
            let word = match &*heard.borrow() {
                Verdict::Unknown => "unknown",
                Verdict::Starting(_) => "starting",
                Verdict::Well => "well",
                Verdict::Failing(_) => "failing",
            };
            verdicts.push((began.elapsed().as_millis(), word));
        }
    };
    // The script ends by never answering; nothing comes after that.
    let end = async { tokio::time::sleep(Duration::from_hours(1)).await };
    tokio::select! {
        () = following => {}
        () = listening => {}
        () = end => {}
    }
    let asked = asked.lock().expect("whole");
    (asked.iter().map(|at| (*at - began).as_millis()).collect(), verdicts)
}

#[tokio::test(start_paused = true)]
async fn a_verdict_changes_after_several_looks_and_is_told_once() {
    let (_, verdicts) = story("++--+---++-++", 0.5).await;
    // Twice in a row is not enough; three times is, and so are two good ones.
    let words: Vec<_> = verdicts.iter().map(|it| it.1).collect();
    assert_eq!(words, ["well", "failing", "well"]);
    for ((at, word), expected) in verdicts.iter().zip([0, 8000, 9000]) {
        assert!(at.abs_diff(expected) <= 10, "{word} after {at} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_starts_is_looked_at_often_and_then_seldom() {
    let (asked, verdicts) = story("---------+++", 0.5).await;
    let expected = [0, 10, 30, 70, 150, 310, 560, 810, 1060, 1310, 3310, 5310, 7310];
    let close = |(a, b): (&u128, &u128)| a.abs_diff(*b) <= 12;
    assert!(asked.len() == expected.len() && asked.iter().zip(&expected).all(close), "{asked:?}");
    assert_eq!(verdicts.iter().map(|it| it.1).collect::<Vec<_>>(), ["starting", "well"]);
}

#[tokio::test(start_paused = true)]
async fn pauses_are_random_by_a_tenth() {
    for (random, second) in [(0.0, 1800), (0.5, 2000), (0.999, 2199)] {
        let (asked, _) = story("++", random).await;
        assert!(asked[1].abs_diff(second) <= 2, "{random}: {asked:?}");
    }
}

#[test]
fn the_cause_is_the_newest() {
    let mut count = Count::default();
    assert_eq!(count.take(Err("a".into()), 2), Verdict::Starting("a".into()));
    assert_eq!(count.take(Ok(()), 2), Verdict::Well);
    assert_eq!(count.take(Err("b".into()), 2), Verdict::Well);
    assert_eq!(count.take(Err("c".into()), 2), Verdict::Failing("c".into()));
    assert_eq!(count.take(Err("d".into()), 2).why(), Some("d"));
}

fn port(address: SocketAddr, how: &str, grpc: bool) -> Port {
    let how = vec![how.parse().expect(how)];
    let checks = Checks { how, ..Checks::default() };
    Port::new("80", &Address::Tcp(address), &checks, move || grpc)
}

async fn look(address: SocketAddr, how: &str, grpc: bool) -> Result<(), String> {
    let look = async { port(address, how, grpc).look(Duration::from_millis(500)).await };
    timeout(LONG, look).await.expect("bounded")
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn a_connection_is_enough_unless_more_is_asked_for() {
    let (listener, address) = listener().await;
    let said = |why: &str| Err(format!("{address}: {why}"));
    assert_eq!(look(address, "tcp", true).await, Ok(()));
    assert_eq!(look(address, "auto", false).await, Ok(()));
    assert_eq!(look(address, "80=tcp", false).await, Ok(()));
    // It takes the connection and says nothing.
    assert_eq!(look(address, "http:/", false).await, said("no answer within 500ms"));
    assert_eq!(look(address, "grpc", false).await, said("no answer within 500ms"));
    assert_eq!(look(address, "auto", true).await, said("no answer within 500ms"), "it hangs");
    drop(listener);
    assert_eq!(look(address, "tcp", false).await, said("connection refused"));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
    assert_eq!(look(everywhere, "auto", false).await, said("connection refused"));
}

#[tokio::test]
async fn a_path_answers_with_a_good_status() {
    let (listener, address) = listener().await;
    let mut tasks = Tasks::new();
    let well = Arc::new(AtomicBool::new(true));
    let answers = Arc::clone(&well);
    tasks.spawn("application", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&head[..length]).into_owned();
            assert!(asked.starts_with("GET /healthz?x=1 HTTP/1.1\r\n"), "{asked}");
            let status = if answers.load(Ordering::Relaxed) { "204 OK" } else { "503 Busy" };
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("written");
        }
    });
    assert_eq!(look(address, "http:/healthz?x=1", false).await, Ok(()));
    well.store(false, Ordering::Relaxed);
    let expected = Err(format!("{address}: GET /healthz?x=1 answers 503"));
    assert_eq!(look(address, "http:/healthz?x=1", false).await, expected);
}

#[tokio::test]
async fn a_grpc_server_says_itself_whether_it_is_well() {
    let (listener, address) = listener().await;
    let mut tasks = Tasks::new();
    let (reporter, service) = tonic_health::server::health_reporter();
    tasks.spawn("application", async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        let _ended = server.serve_with_incoming(incoming).await;
    });
    for (status, expected) in [(ServingStatus::Serving, true), (ServingStatus::NotServing, false)] {
        reporter.set_service_status("", status).await;
        assert_eq!(look(address, "auto", true).await.is_ok(), expected, "{status:?}");
        assert_eq!(look(address, "grpc", false).await.is_ok(), expected, "{status:?}");
        assert_eq!(look(address, "auto", false).await, Ok(()), "it is not known to speak gRPC");
    }
    let unknown = look(address, "grpc:shop.Orders", false).await.expect_err("not registered");
    assert!(unknown.contains("health check: NOT_FOUND"), "{unknown}");
}

#[tokio::test]
async fn a_grpc_server_without_a_health_service_has_only_to_answer() {
    let (listener, address) = listener().await;
    let mut tasks = Tasks::new();
    tasks.spawn("application", async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let other = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("well-formed");
        let server = tonic::transport::Server::builder().add_service(other);
        let _ended = server.serve_with_incoming(incoming).await;
    });
    let mut port = port(address, "auto", true);
    assert_eq!(timeout(LONG, port.look(LONG)).await.expect("bounded"), Ok(()));
    assert!(port.unserved, "it is not asked again and again");
    assert!(look(address, "grpc", true).await.is_err(), "unless that was wanted");
}

#[tokio::test]
async fn what_is_not_checked_is_well() {
    let (verdict, _) = channel(Verdict::Unknown);
    let checks = Checks::default();
    watch(Vec::new(), &checks, &verdict).await;
    assert!(verdict.borrow().is_well());
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    assert_eq!(port(address, "none", false).how, How::Never);
    verdict.send_replace(Verdict::Unknown);
    watch(vec![port(address, "none", false)], &checks, &verdict).await;
    assert!(verdict.borrow().is_well());
}
