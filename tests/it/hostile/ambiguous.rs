//! Requests of HTTP/1.1 that two readers could read in two ways, from the list that the codec's own
//! tests use: each is refused, and nothing behind it reaches the application.

use futures_util::{StreamExt as _, stream};

use super::{Bystanders, check_unharmed, wire::attack};
use crate::harness::{App, StaticPair, heavy};

const REQUESTS: &str = include_str!("../../http1/ambiguous.txt");

/// The bytes that a line of the list means, for the service that is there.
fn bytes(written: &str) -> Vec<u8> {
    let written = written.replace("orders.shop:9090", "echo:9090").replace("orders.shop", "echo");
    let (mut bytes, mut rest) = (Vec::new(), written.chars());
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.push(u8::try_from(character).expect("ASCII"));
            continue;
        }
        bytes.push(match rest.next().expect("an escape") {
            'r' => b'\r',
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("two digits")
            }
            other => u8::try_from(other).expect("ASCII"),
        });
    }
    bytes
}

#[tokio::test]
async fn ambiguous_requests_reach_nobody() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let outbound = pair.client.address("outbound");
    let bystanders = Bystanders::start(outbound, "echo:9090", 2);
    bystanders.go_on("before").await;
    let requests = REQUESTS.lines().filter(|line| !line.starts_with('#'));
    let tries = requests.map(|line| async move {
        let (name, written) = line.split_once('\t').expect("a tab");
        let mut request = bytes(written);
        request.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: echo:9090\r\n\r\n");
        let (came, ended) = attack(outbound, [request], false).await;
        let came = String::from_utf8_lossy(&came).into_owned();
        let refused = came.is_empty() || came.starts_with("HTTP/1.1 4");
        let wrong = !ended || !refused || came.matches("HTTP/1.1 ").count() > 1;
        wrong.then(|| format!("{name}: ended {ended}, {came:?}"))
    });
    let wrong: Vec<String> =
        stream::iter(tries).buffer_unordered(8).filter_map(std::future::ready).collect().await;
    assert!(wrong.is_empty(), "{} were not refused:\n{}", wrong.len(), wrong.join("\n"));
    bystanders.end().await;
    check_unharmed(&pair).await;
}
