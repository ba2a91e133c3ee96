//! The shop's fault switch: what a service does wrong on demand, and a small HTTP endpoint on a
//! port of its own by which the demo turns it. Turning a fault off also answers the calls that
//! hang because of it.

use std::{
    convert::Infallible,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch};
use tonic::Status;

/// What a service does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Every call is answered with UNAVAILABLE.
    Unavailable,
    /// No call is answered until the fault is turned off.
    Hang,
    /// One of so many calls is answered with UNAVAILABLE, by counting.
    OneOf(u64),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}` is none of: none, unavailable, hang, 1/8");
        match text.trim() {
            "none" => Ok(Self::None),
            "unavailable" => Ok(Self::Unavailable),
            "hang" => Ok(Self::Hang),
            share => match share.strip_prefix("1/").map(str::parse) {
                Some(Ok(number)) if number > 0 => Ok(Self::OneOf(number)),
                _ => Err(expected()),
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Unavailable => f.write_str("unavailable"),
            Self::Hang => f.write_str("hang"),
            Self::OneOf(number) => write!(f, "1/{number}"),
        }
    }
}

/// One instance's switch, and how many calls it saw.
pub(super) struct Switch {
    fault: watch::Sender<Fault>,
    calls: AtomicU64,
    failed: AtomicU64,
}

impl Switch {
    pub(super) fn new(fault: Fault) -> Self {
        Self {
            fault: watch::Sender::new(fault),
            calls: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Counts a call and lets it pass, fail or wait, as the switch stands.
    pub(super) async fn pass(&self) -> Result<(), Status> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = *self.fault.borrow();
        let fails = match fault {
            Fault::None => false,
            Fault::Unavailable => true,
            Fault::Hang => {
                drop(self.fault.subscribe().wait_for(|fault| *fault != Fault::Hang).await);
                false
            }
            Fault::OneOf(share) => number.is_multiple_of(share),
        };
        if fails {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Err(Status::unavailable("out of order"));
        }
        Ok(())
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, String) {
        match (method, path) {
            (&Method::GET, "/calls") => {
                let calls = self.calls.load(Ordering::Relaxed);
                let failed = self.failed.load(Ordering::Relaxed);
                (StatusCode::OK, serde_json::json!({"calls": calls, "failed": failed}).to_string())
            }
            (&Method::GET, "/fault") => (StatusCode::OK, self.fault.borrow().to_string()),
            (&Method::PUT, "/fault") => match String::from_utf8_lossy(body).parse() {
                Ok(fault) => {
                    self.set(fault);
                    (StatusCode::OK, fault.to_string())
                }
                Err(message) => (StatusCode::BAD_REQUEST, message),
            },
            _ => (StatusCode::NOT_FOUND, "GET /calls, GET or PUT /fault".to_owned()),
        }
    }
}

/// Serves the switch as long as it is polled.
pub(super) async fn serve(switch: Arc<Switch>, listener: TcpListener) -> Infallible {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: some may come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let switch = Arc::clone(&switch);
        super::spawn(async move {
            let service = service_fn(move |request| turn(Arc::clone(&switch), request));
            // A caller that breaks off concerns nobody.
            let _done = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn turn(
    switch: Arc<Switch>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, 1024).collect().await.map(|body| body.to_bytes());
    let (status, text) = match body {
        Ok(body) => switch.answer(&head.method, head.uri.path(), &body),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::{Fault, Switch};
    use hyper::{Method, StatusCode};

    #[test]
    fn faults_are_written_as_they_are_read() {
        for text in ["none", "unavailable", "hang", "1/8"] {
            assert_eq!(text.parse::<Fault>().expect(text).to_string(), text);
        }
        for text in ["", "slow", "1/0", "1/x", "2/8"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn one_of_four_fails() {
        let switch = Switch::new(Fault::OneOf(4));
        let mut passed = Vec::new();
        for _ in 0..8 {
            passed.push(switch.pass().await.is_ok());
        }
        assert_eq!(passed, [true, true, true, false, true, true, true, false]);
        let (status, body) = switch.answer(&Method::GET, "/calls", b"");
        assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"calls":8,"failed":2}"#));
    }

    #[tokio::test]
    async fn a_hanging_call_is_answered_when_the_fault_is_turned_off() {
        let switch = Switch::new(Fault::Hang);
        let turned = async {
            tokio::task::yield_now().await;
            assert_eq!(switch.answer(&Method::PUT, "/fault", b"none").0, StatusCode::OK);
        };
        let (passed, ()) = tokio::join!(switch.pass(), turned);
        assert!(passed.is_ok());
        assert_eq!(switch.answer(&Method::PUT, "/fault", b"slow").0, StatusCode::BAD_REQUEST);
        assert_eq!(switch.answer(&Method::GET, "/fault", b"").1, "none");
    }
}
