//! Requests that pay.

use super::*;

#[tokio::test]
async fn a_payment_that_is_no_good_gets_terms_with_the_reason() {
    let shop = shop().await;
    for fields in ["PAYMENT-SIGNATURE: x\r\n", "X-PAYMENT: x\r\n", "X-Payment:\r\n"] {
        let answer = shop.ask("GET /paid", fields).await;
        assert_eq!(status(&answer), 402, "{answer}");
        assert!(field(&answer, "payment-required").is_some() && field(&answer, "payment-response").is_none());
        let terms: Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(terms["error"], "invalid_payload");
    }
    let two = format!("PAYMENT-SIGNATURE: {}\r\nX-PAYMENT: {}\r\n", payment_header("1"), payment_header("2"));
    let answer = shop.ask("GET /paid", &two).await;
    assert_eq!(status(&answer), 400, "{answer}");
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn a_paid_request_is_served_once_with_proof_for_both_sides() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let answer = shop.pay("GET /paid?x=1", "1").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(body(&answer), "ok");
    let outcome = field(&answer, "payment-response").unwrap();
    assert_eq!(Some(outcome), field(&answer, "x-payment-response"));
    assert_eq!(answer.matches("yment-response: ").count(), 2, "the origin's forgery passed: {answer}");
    let outcome: Value =
        serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(outcome).unwrap()).unwrap();
    assert_eq!((&outcome["success"], &outcome["transaction"]), (&Value::Bool(true), &"0xtx".into()));
    assert_eq!(field(&answer, "cache-control"), Some("private, no-store"));
    assert_eq!(field(&answer, "vary"), Some("PAYMENT-SIGNATURE, X-PAYMENT"));
    let head = shop.origin.heads().remove(0);
    for said in [
        "get /paid?x=1 http/1.1",
        "x-payment-payer: 0xpayer",
        "x-payment-network: eip155:84532",
        "x-payment-transaction: 0xtx",
        "x-payment-amount: 10000",
        "x-payment-asset: 0xtoken",
        "idempotency-key: pay_",
    ] {
        assert!(head.contains(said), "{said} in {head}");
    }
    assert!(!head.contains("payment-signature"), "{head}");
    shop.gate.reaches(&[PaymentState::Served]).await;
    let again = shop.pay("GET /paid?x=1", "1").await;
    assert_eq!(status(&again), 402, "{again}");
    assert!(again.contains("payment_already_used") && shop.hits() == 1);
}

#[tokio::test]
async fn a_pending_settlement_is_never_answered_with_terms() {
    let shop = shop().await;
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 503, "{answer}");
    assert!(field(&answer, "payment-required").is_none() && field(&answer, "retry-after") == Some("2"));
    assert!(body(&answer).contains("settlement_pending") && field(&answer, "payment-response").is_some());
    let other = shop.pay("GET /paid?other", "1").await;
    assert_eq!(status(&other), 409, "{other}");
    assert!(other.contains("payment_bound_to_other_request"));
    shop.gate.chain.pays();
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(status(&shop.pay("GET /paid", "1").await), 200);
    assert_eq!(shop.hits(), 1);
}

#[tokio::test]
async fn a_settlement_that_failed_is_answered_with_fresh_terms() {
    let shop = shop().await;
    shop.gate.chain.fails();
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 402, "{answer}");
    assert!(field(&answer, "payment-required").is_some() && field(&answer, "payment-response").is_some());
    assert_eq!(shop.hits(), 0);
}

#[tokio::test]
async fn an_origin_that_fails_after_payment_leaves_the_payment_good() {
    for (answer, closes, expected) in [
        (&b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno"[..], false, 500),
        (b"", true, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true, 200),
    ] {
        let shop = open(Opening { answer, closes, ..Opening::default() }).await;
        shop.gate.chain.pays();
        let first = shop.pay("GET /paid", "1").await;
        assert_eq!(status(&first), expected, "{first}");
        assert!(field(&first, "payment-response").is_some(), "{first}");
        assert_eq!(shop.hits(), 1, "a paid request is never repeated by itself");
        shop.gate.reaches(&[PaymentState::Paid]).await;
        let second = shop.pay("GET /paid", "1").await;
        assert_eq!(status(&second), expected, "{second}");
        shop.gate.reaches(&[PaymentState::Owed]).await;
        let third = shop.pay("GET /paid", "1").await;
        assert_eq!((status(&third), shop.hits()), (409, 2), "{third}");
        assert!(third.contains("payment_owed"), "{third}");
        assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_settled_and_served_later() {
    let shop = shop().await;
    let request =
        format!("GET /paid HTTP/1.1\r\nHost: shop.example\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header("1"));
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(socket);
    shop.gate.chain.pays();
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(shop.hits(), 0, "nothing is spent on a client that is gone");
    assert_eq!(status(&shop.pay("GET /paid", "1").await), 200);
    shop.gate.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_while_the_origin_works_keeps_its_payment() {
    let shop = open(Opening { answer: b"", ..Opening::default() }).await;
    shop.gate.chain.pays();
    let request =
        format!("GET /paid HTTP/1.1\r\nHost: shop.example\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header("1"));
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    while shop.hits() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    shop.gate.reaches(&[PaymentState::Delivering]).await;
    drop(socket);
    shop.gate.reaches(&[PaymentState::Paid]).await;
}

#[tokio::test]
async fn an_origin_that_is_too_slow_leaves_the_payment_good() {
    let read_timeout = Duration::from_millis(200);
    let shop = open(Opening { answer: b"", read_timeout, ..Opening::default() }).await;
    shop.gate.chain.pays();
    let answer = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&answer), 504, "{answer}");
    assert!(field(&answer, "payment-response").is_some() && body(&answer).contains("present the same payment again"));
    shop.gate.reaches(&[PaymentState::Paid]).await;
    assert_eq!(shop.hits(), 1);
    assert_eq!(status(&shop.ask("GET /open", "").await), 504);
}

#[tokio::test]
async fn a_server_that_is_down_costs_neither_payers_nor_others_their_answer() {
    let shop = open(Opening { has_dead_server: true, ..Opening::default() }).await;
    shop.gate.chain.pays();
    for nonce in ["1", "2", "3"] {
        assert_eq!(status(&shop.pay("POST /paid", nonce).await), 200);
        assert_eq!(status(&shop.ask("POST /free/a", "Content-Length: 0\r\n").await), 200);
    }
    assert_eq!(shop.hits(), 6);
    shop.gate.reaches(&[PaymentState::Served; 3]).await;
}

#[tokio::test]
async fn terms_and_outcomes_are_readable_to_the_page_that_pays() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let fields = format!("Origin: https://page.example\r\nPAYMENT-SIGNATURE: {}\r\n", payment_header("1"));
    let answer = shop.ask("GET /paid", &fields).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("https://page.example"));
    assert!(field(&answer, "access-control-expose-headers").unwrap().contains("PAYMENT-RESPONSE"));
}

#[tokio::test]
async fn a_paid_request_passes_nothing_on_to_the_next_one_on_its_connection() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    for nonce in ["1", "2"] {
        let paying = format!("GET /paid HTTP/1.1\r\nHost: h\r\nPAYMENT-SIGNATURE: {}\r\n\r\n", payment_header(nonce));
        socket.write_all(paying.as_bytes()).await.unwrap();
        assert_eq!(status(&String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap()), 200);
        socket.write_all(b"GET /paid HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let unpaid = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert_eq!(status(&unpaid), 402);
        socket.write_all(b"GET /free/a HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        let free = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
        assert!(status(&free) == 200 && field(&free, "payment-response").is_none());
    }
    assert!(!shop.origin.heads().remove(1).contains("x-payment"));
}

#[tokio::test]
async fn bodies_of_paid_requests_arrive_whole_and_bind_the_payment() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let limit = 64 * 1024;
    for (at, size) in [0, 1, limit - 1, limit, limit + 1, 2 * limit + 17, 1024 * 1024].into_iter().enumerate() {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for (way, chunk) in [("length", 0), ("one chunk", usize::MAX), ("chunks", 10_000), ("large chunks", 65_537)] {
            let nonce = format!("{at}-{way}");
            let head = format!(
                "POST /paid HTTP/1.1\r\nHost: h\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n",
                payment_header(&nonce)
            );
            let framed = if chunk == 0 {
                [format!("{head}Content-Length: {size}\r\n\r\n").as_bytes(), &sent].concat()
            } else {
                let mut framed = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for piece in sent.chunks(chunk.min(size.max(1))) {
                    framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    framed.extend_from_slice(piece);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(b"0\r\n\r\n");
                framed
            };
            let answer = exchange(shop.address, &framed).await;
            assert_eq!(status(&answer), 200, "{size} {way}: {answer}");
            assert!(shop.origin.last_body() == sent, "{size} bytes by {way} did not arrive as they were sent");
        }
    }
    assert_eq!(shop.hits(), 28);
}

#[tokio::test]
async fn a_client_that_waits_for_continue_is_asked_for_its_body_once_its_payment_is_proven() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let head = format!(
        "POST /paid HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n\r\n",
        payment_header("1")
    );
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let interim = String::from_utf8(read_message(&mut socket).await.unwrap()).unwrap();
    assert_eq!(status(&interim), 100);
    assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 0, "the money moves when the request is whole");
    socket.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 200);
    assert_eq!(shop.origin.last_body(), b"body");
    assert!(!shop.origin.heads().remove(0).contains("expect"));
}

#[tokio::test]
async fn with_the_origin_down_no_payment_is_looked_at() {
    let shop = open(Opening { has_origin: false, ..Opening::default() }).await;
    let answer = shop.ask("GET /paid", "X-PAYMENT: x\r\n").await;
    assert_eq!(status(&answer), 503);
    assert!(body(&answer).contains("origin_unavailable"));
    assert_eq!(shop.decoded(), 0);
    assert_eq!(status(&shop.ask("GET /paid", "").await), 402, "terms need no origin");
    assert_eq!(status(&shop.ask("GET /open", "").await), 502);
}

#[tokio::test]
async fn the_same_payment_many_times_at_once_reaches_the_origin_once() {
    // Patient enough for a busy machine: nobody may be told "pending" here.
    let shop = open(Opening { settle_timeout: Duration::from_secs(20), ..Opening::default() }).await;
    let request = format!(
        "GET /paid HTTP/1.1\r\nHost: h\r\nConnection: close\r\nPAYMENT-SIGNATURE: {}\r\n\r\n",
        payment_header("1")
    );
    let asking = futures::future::join_all((0..200).map(|_| exchange(shop.address, request.as_bytes())));
    let paying = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        shop.gate.chain.pays();
    };
    let (answers, ()) = tokio::join!(asking, paying);
    let count = |wanted: u16| answers.iter().filter(|answer| status(answer) == wanted).count();
    let is_odd = |answer: &&String| ![200, 409, 402].contains(&status(answer));
    let others: Vec<_> = answers.iter().filter(is_odd).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(count(200), 1);
    assert_eq!(shop.hits(), 1);
    assert_eq!(shop.gate.chain.settles.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn every_complete_answer_below_500_counts_as_served() {
    for (line, answer, expected) in [
        ("HEAD /paid", &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"[..], 200),
        ("GET /paid", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET /paid", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", 304),
        ("GET /paid", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404),
        ("GET /paid", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200),
    ] {
        let shop = open(Opening { answer, ..Opening::default() }).await;
        shop.gate.chain.pays();
        let seen = shop.pay(line, "1").await;
        assert_eq!(status(&seen), expected, "{seen}");
        assert!(field(&seen, "payment-response").is_some(), "{seen}");
        shop.gate.reaches(&[PaymentState::Served]).await;
    }
}

#[tokio::test]
async fn an_answer_without_a_length_is_streamed_and_served_when_it_ends() {
    let shop = open(Opening { answer: b"HTTP/1.0 200 OK\r\n\r\nstream", closes: true, ..Opening::default() }).await;
    shop.gate.chain.pays();
    let seen = shop.pay("GET /paid", "1").await;
    assert!(status(&seen) == 200 && seen.contains("stream") && seen.ends_with("0\r\n\r\n"), "{seen}");
    shop.gate.reaches(&[PaymentState::Served]).await;
}

#[tokio::test]
async fn a_client_that_hung_up_before_the_settlement_is_not_charged() {
    let shop = shop().await;
    shop.gate.chain.pays();
    let mut socket = TcpStream::connect(shop.address).await.unwrap();
    let payment = payment_header("1");
    let request = format!("GET /paid HTTP/1.1\r\nHost: h\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!((answer.as_str(), shop.hits()), ("", 0));
    shop.gate.reaches(&[]).await;
    let again = shop.pay("GET /paid", "1").await;
    assert_eq!(status(&again), 200, "{again}");
}
