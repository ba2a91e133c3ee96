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
