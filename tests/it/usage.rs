//! Commands that are used wrongly: what is said, where, and that nothing begins.

use crate::harness::Place;

#[tokio::test]
async fn wrong_usage_is_2_on_stderr() {
    let said = Place::new().run(&["no-such-command"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:?}");
    assert!(said.stderr.contains("no-such-command"), "{said:?}");
}

#[tokio::test]
async fn wrong_usage_names_flag_and_value_and_starts_nothing() {
    let place = Place::new();
    let sidecar = |more: &'static str| format!("sidecar --service a --control-plane a:1 {more}");
    let control = |more: &'static str| format!("control-plane --data cp {more}");
    for (line, said) in [
        (sidecar("--app grpc=:1 --app grpc=:2"), "--app names port grpc twice"),
        (sidecar("--app :1 --app-check 9=tcp"), "--app-check 9=…: no --app has this port"),
        (sidecar("--label a=1 --label a=2"), "--label names a twice"),
        (sidecar("--label a/b/c=1"), "'--label <KEY=VALUE>': \"a/b/c\" is not the key of a label"),
        (
            sidecar("--advertise 0.0.0.0"),
            "'--advertise <ADDRESS>': an address to which nobody can connect",
        ),
        (
            sidecar("--advertise a_b!"),
            "'--advertise <ADDRESS>': not an address; name an IP address",
        ),
        (sidecar("--otlp collector:4317"), "'--otlp <URL>': no URL such as http://127.0.0.1:4317"),
        (sidecar("--log loud"), "'--log <LEVEL>': \"loud\" is no log filter"),
        (sidecar("--weight much"), "'--weight <N>': not a whole number"),
        (
            sidecar("--outbound here"),
            "'--outbound <ADDRESS>': not IP:PORT, such as 127.0.0.1:15001",
        ),
        ("sidecar --service a --control-plane b".to_owned(), "<ADDRESS>': no HOST:PORT"),
        (control("--trust-domain Mesh"), "'Mesh' for '--trust-domain <DOMAIN>': no trust domain"),
        (control("--tls-san a_b!"), "'--tls-san <NAME>': no host name or address"),
        (control("--leaf-ttl 1s"), "'--leaf-ttl <DURATION>': not from 2s to 8760h"),
        ("apply -f x --guard 1s".to_owned(), "'1s' for '--guard <DURATION>': not from 10s to 1h"),
        ("token create --service a --ttl 721h".to_owned(), "not from 1s to 720h"),
        ("credential create a --role viewer --ttl 1s".to_owned(), "not from 1m to 8760h"),
        ("rollback one".to_owned(), "'one' for '<REVISION>': not a whole number"),
    ] {
        let args: Vec<_> = line.split(' ').collect();
        let ended = place.run(&args).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(said), "{ended:?}");
    }
    let left: Vec<_> = std::fs::read_dir(place.path("state")).unwrap().collect();
    assert!(left.is_empty() && !place.path("home/cp").exists(), "{left:?}");
}

#[tokio::test]
async fn a_cause_is_said_once() {
    let place = Place::new();
    place.write("home/wrong.yaml", "x: [\n");
    place.write("home/binary.yaml", "");
    std::fs::write(place.path("home/binary.yaml"), [0xff, 0xfe]).unwrap();
    for (line, expected) in [
        ("status --contexts /dev/zero", "error: /dev/zero: larger than 1024 KiB\n"),
        ("status --contexts /", "error: /: Is a directory (os error 21)\n"),
        (
            "status --contexts binary.yaml",
            "error: binary.yaml: stream did not contain valid UTF-8\n",
        ),
        (
            "status --contexts wrong.yaml",
            "error: wrong.yaml: unknown field `x`, expected one of apiVersion, kind, current-context, \
             contexts at line 1, column 1\n",
        ),
        (
            "healthcheck --health 127.0.0.1:1",
            "error: 127.0.0.1:1: Connection refused (os error 111)\n  \
             try: is a sidecar running here? --health names its listener\n",
        ),
    ] {
        let said = place.run(&line.split(' ').collect::<Vec<_>>()).await;
        let said = (said.code, said.stdout.as_str(), said.stderr.as_str());
        assert_eq!(said, (Some(1), "", expected));
    }
}
