//! Requests that don't pay: free ones, those that get the terms, and those that are refused.

use super::*;

#[tokio::test]
async fn a_free_request_reaches_the_origin_without_what_a_client_could_forge() {
    let shop = shop().await;
    let fields = "X-Payment-Payer: me\r\nX-PAYMENT: x\r\nPAYMENT-SIGNATURE: y\r\nX-Original-URL: /paid\r\nX-Forwarded-For: 1.2.3.4\r\nUpgrade: h2c\r\nX-Kept: 1\r\n";
    let answer = shop.ask("GET /free/%61/../b?x=%2F", fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(body(&answer), "ok");
    assert!(field(&answer, "payment-response").is_none(), "the origin's forgery passed: {answer}");
    assert_eq!(field(&answer, "x-origin"), Some("yes"));
    let head = shop.origin.heads().remove(0);
    assert!(head.starts_with("get /free/b?x=%2f http/1.1"), "{head}");
    for gone in ["x-payment", "payment-signature", "x-original-url", "1.2.3.4", "upgrade"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains("x-kept: 1") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    assert!(head.contains("x-forwarded-host: shop.example"), "{head}");
}

#[tokio::test]
async fn an_unpaid_request_gets_the_terms_and_never_reaches_the_origin() {
    let shop = shop().await;
    for line in ["GET /paid", "POST /paid", "HEAD /paid", "GET /PAID/", "GET /x/../paid", "GET /%70aid"] {
        let answer = shop.ask(line, "").await;
        assert_eq!(status(&answer), 402, "{line}: {answer}");
        assert_eq!(field(&answer, "cache-control"), Some("no-store"));
        assert_eq!(field(&answer, "content-type"), Some("application/json"));
        let header =
            base64::engine::general_purpose::STANDARD.decode(field(&answer, "payment-required").unwrap()).unwrap();
        let terms: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(terms["error"], "payment_required");
        assert!(terms["resource"]["url"].as_str().unwrap().starts_with("http://shop.example/"));
        if line.starts_with("HEAD") {
            assert_eq!(body(&answer), "");
            assert_ne!(field(&answer, "content-length"), Some("0"));
        } else {
            let v1: Value = serde_json::from_str(body(&answer)).unwrap();
            assert_eq!(v1["x402Version"], 1);
        }
    }
    assert_eq!(shop.hits(), 0);
    assert_eq!(shop.decoded(), 0, "no gate is asked for terms");
}

#[tokio::test]
async fn a_browser_gets_a_page_and_programs_find_the_terms_in_it_too() {
    let shop = shop().await;
    let answer = shop.ask("GET /paid?a=1", "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\n").await;
    assert_eq!(status(&answer), 402);
    assert!(field(&answer, "content-type").unwrap().starts_with("text/html"));
    assert!(field(&answer, "content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(field(&answer, "payment-required").is_some());
    assert!(body(&answer).contains("tollhouse pay &#39;http://shop.example/paid?a=1&#39;"), "{answer}");
    let paying = shop.ask("GET /paid", "Accept: text/html\r\nUser-Agent: Mozilla/5.0\r\nX-PAYMENT: x\r\n").await;
    assert_eq!(field(&paying, "content-type"), Some("application/json"));
}

#[tokio::test]
async fn with_no_network_open_no_terms_are_shown() {
    let shop = shop().await;
    shop.gate.chain.is_open.store(false, Ordering::SeqCst);
    let answer = shop.ask("GET /paid", "").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("payments_unavailable"));
    assert!(field(&answer, "payment-required").is_none() && field(&answer, "retry-after").is_some());
}

#[tokio::test]
async fn what_no_route_takes_is_refused_and_never_forwarded() {
    let shop = shop().await;
    assert_eq!(status(&shop.ask("GET /nowhere", "").await), 404);
    assert_eq!(status(&shop.ask("GET /denied", "").await), 404);
    let answer = shop.ask("DELETE /paid", "X-PAYMENT: x\r\n").await;
    assert_eq!(status(&answer), 405);
    assert!(field(&answer, "allow").unwrap().contains("GET"));
    assert_eq!(status(&shop.ask("TRACE /paid", "").await), 405);
    assert_eq!(status(&shop.ask("TRACE /free/a", "").await), 405);
    assert_eq!(status(&shop.ask("CONNECT shop.example:80", "").await), 405);
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn unsafe_requests_are_refused_before_any_payment() {
    let shop = shop().await;
    let long = format!("GET /free/a HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(33 * 1024));
    let many = format!("GET /free/a HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(101));
    for (request, expected) in [
        ("GET http://h/paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET free/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET ?/free/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET foo:bar://e/paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET /free/a%2Fpaid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/a\\..\\paid HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/%00 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /free/%zz HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("POST /free/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\nHost: h\n\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
        ("GET /free/a HTTP/1.1\r\nHost: h\r\nConnection: close, X-Payment-Payer\r\n\r\n", 400),
        (long.as_str(), 431),
        (many.as_str(), 431),
    ] {
        // The last client header keeps connections that stay usable from being waited for.
        let request = request.replacen(
            "\r\n\r\n",
            "\r\nConnection: close\r\n\r\n",
            usize::from(!request.contains("Connection") && expected == 400),
        );
        let answer = exchange(shop.address, request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{request:.80} {answer}");
    }
    assert_eq!(shop.hits(), 0);
    assert_eq!(shop.decoded(), 0);
}

#[tokio::test]
async fn preflights_of_priced_paths_are_free_and_those_of_free_paths_are_the_origins() {
    let shop = shop().await;
    let fields = "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = shop.ask("OPTIONS /paid", fields).await;
    assert_eq!(status(&answer), 204, "{answer}");
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&answer, "access-control-allow-headers").unwrap().contains("PAYMENT-SIGNATURE"));
    assert_eq!(shop.hits(), 0);
    assert_eq!(status(&shop.ask("OPTIONS /paid", "").await), 405, "without Origin it is no preflight");
    assert_eq!(status(&shop.ask("OPTIONS /open", fields).await), 204, "nobody else would answer for a GET route");
    assert_eq!(status(&shop.ask("OPTIONS /denied", fields).await), 404);
    assert_eq!(shop.hits(), 0);
    assert_eq!(status(&shop.ask("OPTIONS /free/a", fields).await), 200);
    assert_eq!(shop.hits(), 1);
    let terms = shop.ask("GET /paid", "Origin: https://page.example\r\n").await;
    assert_eq!(field(&terms, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&terms, "access-control-expose-headers").unwrap().contains("PAYMENT-REQUIRED"));
    assert_eq!(status(&shop.ask("OPTIONS *", "").await), 204);
}

#[tokio::test]
async fn a_connection_goes_on_after_terms_and_a_body_never_becomes_a_request() {
    let shop = shop().await;
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    let smuggled = "GET /free/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let request = format!("POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    for _ in 0..3 {
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert_eq!(status(&answer), 402);
        assert_eq!(field(&answer, "connection"), Some("keep-alive"));
    }
    socket.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    assert_eq!(status(&String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap()), 200);
    assert_eq!(shop.hits(), 1);
}

#[tokio::test]
async fn a_large_unread_body_does_not_take_the_answer_away() {
    let shop = shop().await;
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    let body_bytes = 900 * 1024;
    let head = format!("POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: {body_bytes}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![b'x'; body_bytes]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 402);
    assert_eq!(field(&answer, "connection"), Some("close"));
}

#[tokio::test]
async fn a_client_that_waits_for_continue_gets_terms_at_once() {
    let shop = shop().await;
    let started = Instant::now();
    let answer = exchange(
        shop.address,
        b"POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: 500000\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(status(&answer), 402, "{answer}");
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let shop = open(Opening { answer, closes: true, ..Opening::default() }).await;
        let seen = shop.ask("POST /free/a", "Content-Length: 0\r\n").await;
        assert!(seen.contains("half") && !seen.contains("\r\n0\r\n\r\n"), "{seen}");
        assert_eq!(shop.hits(), 1, "a POST is never repeated");
    }
}

#[tokio::test]
async fn an_origin_that_switches_protocols_unasked_is_cut_off() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nsecret";
    let shop = open(Opening { answer, ..Opening::default() }).await;
    let seen = shop.ask("GET /free/a", "").await;
    assert!(status(&seen) == 502 && !seen.contains("secret"), "{seen}");
    shop.gate.chain.pays();
    let paid = shop.pay("GET /paid", "1").await;
    assert!(status(&paid) == 502 && field(&paid, "payment-response").is_some(), "{paid}");
    shop.gate.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn early_hints_pass_and_the_answer_follows() {
    let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let shop = open(Opening { answer, ..Opening::default() }).await;
    let seen = shop.ask("GET /free/a", "").await;
    assert!(seen.starts_with("HTTP/1.1 103") && seen.ends_with("ok"), "{seen}");
    shop.gate.chain.pays();
    let paid = shop.pay("GET /paid", "1").await;
    assert!(paid.starts_with("HTTP/1.1 103") && paid.ends_with("ok"), "{paid}");
    assert_eq!(paid.matches("yment-response: ").count(), 2, "only the answer itself carries the outcome: {paid}");
    shop.gate.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn bodies_of_free_requests_arrive_whole() {
    let shop = shop().await;
    for size in [0, 1, 64 * 1024, 1024 * 1024] {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let head = format!("POST /free/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
        let answer = exchange(shop.address, &[head.as_bytes(), &sent].concat()).await;
        assert_eq!(status(&answer), 200);
        assert!(shop.origin.last_body() == sent, "{size}");
    }
}
