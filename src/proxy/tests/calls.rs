//! Calls of every kind through two sidecars.

use super::{
    app::App,
    client::Client,
    world::{World, grpc},
};

#[tokio::test]
async fn a_unary_call_travels_through_two_sidecars() {
    let world = World::new();
    let app = App::echo().await;
    let orders = world.server("orders", app.address).await;
    let web = world.client("web").await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&yaml).await;

    let mut client = Client::http2(web.outbound()).await;
    let answer = client.unary("orders:9090", b"\0\0\0\0\x02hi").await;
    assert_eq!((answer.status.as_u16(), answer.grpc(), answer.reason()), (200, "0", ""));
    assert_eq!(&answer.data[..], b"\0\0\0\0\x02hi");
    assert_eq!(answer.field("x-trailer"), "after all");
    let seen = app.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].uri, "http://orders:9090/echo.Echo/Echo");
}
