//! The program starts and speaks.

use crate::harness::Place;

#[tokio::test]
async fn the_program_says_its_version() {
    let place = Place::new();
    let said = place.run(&["version"]).await;
    said.assert_done();
    assert_eq!(said.stdout, format!("outrigger {}\n", env!("CARGO_PKG_VERSION")));
    let said = place.run(&["version", "-o", "json"]).await;
    assert_eq!(said.json()["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn wrong_usage_is_2_on_stderr() {
    let said = Place::new().run(&["no-such-command"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:?}");
    assert!(said.stderr.contains("no-such-command"), "{said:?}");
}
