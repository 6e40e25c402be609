//! Starting, being watched, stopping.

use super::*;

#[tokio::test]
async fn operators_see_health_metrics_and_books_and_strangers_names_are_refused() {
    let shop = shop().await;
    let ask = async |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(shop.admin, request.as_bytes()).await
    };
    assert_eq!(status(&shop.ask("GET /paid", "").await), 402);
    let health = ask("/healthz", "localhost").await;
    assert_eq!(status(&health), 200, "{health}");
    assert_eq!(status(&ask("/readyz", "127.0.0.1:8403").await), 200);
    let metrics = ask("/metrics", "[::1]:8403").await;
    assert!(metrics.contains(r#"tollhouse_requests_total{outcome="challenge",route="GET,POST /paid"} 1"#), "{metrics}");
    assert_eq!(body(&ask("/payments?limit=5", "localhost").await), r#"{"next":null,"payments":[]}"#);
    assert_eq!(status(&ask("/payments?limit=x", "localhost").await), 400);
    assert_eq!(status(&ask("/secrets", "localhost").await), 404);
    assert_eq!(status(&ask("/payments", "evil.example").await), 403);
    assert_eq!(status(&ask("/healthz", "localhost.evil.example").await), 403);
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once_and_a_busy_one_ends_its_requests() {
    let mut idle = shop().await;
    let mut kept = TcpStream::connect(idle.address).await.unwrap();
    kept.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert!(read_message(&mut kept).await.is_some());
    let started = Instant::now();
    drop(idle.stop.take());
    idle.ended.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    let mut busy = shop().await;
    let mut socket = TcpStream::connect(busy.address).await.unwrap();
    socket.write_all(b"POST /free/a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(busy.stop.take());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(TcpStream::connect(busy.address).await.is_err(), "it still accepts");
    assert!(!busy.ended.is_finished());
    socket.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    busy.ended.await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_and_no_panic() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(upstream(&["127.0.0.1:1"]), vec![route("/a", Free)]);
    config.server.listen = taken.local_addr().unwrap();
    let gate = TestGate::open(Duration::from_millis(300)).await;
    let refused = Server::bind(gate.parts(&config), gate.admin_parts(&config), None, None).await.err().unwrap();
    assert!(refused.to_string().contains("can't listen on"), "{refused}");
}
