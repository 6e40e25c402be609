//! What operators see of requests: traces at a collector, lines in the access log, and metrics whose labels no client chooses.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tollhouse::ledger::PaymentState;

use crate::harness::{Answer, Call, Plan, Shop, eventually, header, paid, read_body, read_head};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An OTLP collector: takes what the protocol says, and answers nothing else with 200.
struct Collector {
    port: u16,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    services: BTreeSet<String>,
    keys: BTreeSet<String>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(Mutex::new(Received::default()));
        let state = Arc::clone(&received);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                tokio::spawn(async move { take(socket, &state).await.ok() });
            }
        });
        Self { port, received }
    }

    fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }

    /// The server span of this route, and those of its trace in the order in which they began.
    async fn trace(&self, route: &str, spans: usize) -> (Span, Vec<Span>) {
        eventually(&format!("a trace of {route}"), Duration::from_secs(20), || async {
            let all = self.spans();
            let server = all.iter().find(|span| span.kind == span::SpanKind::Server as i32 && span.name == route)?;
            let mut others: Vec<Span> =
                all.iter().filter(|span| span.trace_id == server.trace_id && *span != server).cloned().collect();
            others.sort_by_key(|span| span.start_time_unix_nano);
            (others.len() >= spans).then(|| (server.clone(), others))
        })
        .await
    }
}

async fn take(socket: TcpStream, state: &Mutex<Received>) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket);
    while let Some((start, headers)) = read_head(&mut reader).await? {
        let mut body = Vec::new();
        read_body(&mut reader, &headers, false, &mut body).await?;
        let is_good = start.starts_with("POST /v1/traces HTTP/1.1")
            && header(&headers, "content-type") == Some("application/x-protobuf");
        let Some(request) = ExportTraceServiceRequest::decode(body.as_slice()).ok().filter(|_| is_good) else {
            return reader.get_mut().write_all(b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n").await;
        };
        {
            let mut state = state.lock().unwrap();
            state.keys.extend(header(&headers, "x-api-key").map(str::to_owned));
            for of_resource in request.resource_spans {
                let attributes = of_resource.resource.unwrap().attributes;
                state.services.insert(text(&attributes, "service.name").unwrap());
                state.spans.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
            }
        }
        let answer = ExportTraceServiceResponse::default().encode_to_vec();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        reader.get_mut().write_all(&[head.as_bytes(), &answer].concat()).await?;
    }
    Ok(())
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A plan whose gateway sends its traces to this port. The section goes before the routes.
fn traced(port: u16, server: &str) -> Plan {
    let telemetry = format!(
        "[telemetry]\notlp_endpoint = \"http://127.0.0.1:{port}\"\nservice_name = \"shop\"\nheaders = {{ X-Scope = \"a\" }}\n"
    );
    Plan { server: server.to_owned(), upstream: telemetry, ..Plan::default() }
}

#[tokio::test]
async fn a_reader_of_the_log_that_stalls_holds_up_no_request_and_no_end() {
    // Standard error is a pipe that is open for reading and that nobody reads: it is full after 64 KiB.
    let limit = "d=$(mktemp -d) && mkfifo $d/log && exec 2<>$d/log && rm -r $d";
    let mut shop = Shop::open_with(Plan { limit: Some(limit), log: "trace", ..Plan::default() }).await;
    for _ in 0..300 {
        let answer = tokio::time::timeout(Duration::from_secs(30), Call::get("/health").send(shop.port)).await;
        assert_eq!(answer.expect("a request waits for the log").unwrap().status, 200);
    }
    shop.buy().await;
    let gateway = shop.gateway();
    gateway.terminate();
    assert!(gateway.wait_end().await.success());
}

async fn metrics(shop: &Shop) -> String {
    let answer = Call::local("/metrics").send(shop.admin_port).await.unwrap();
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_paid_request_is_one_trace_with_its_stages_in_order() {
    let collector = Collector::start().await;
    let shop = Shop::open_with(traced(collector.port, "")).await;
    let payment = shop.payment().await;
    // Whoever isn't trusted has no say in the trace, nor the last word with the origin.
    let call = paid(&payment.v2()).with("traceparent", PARENT).with("tracestate", "evil=1");
    assert_eq!(shop.call(&call).await.status, 200);
    let row = shop.wait_state(PaymentState::Served).await;

    let (server, stages) = loop {
        let (server, stages) = collector.trace("GET,POST /api/data", 0).await;
        // The first is of the request for the terms.
        if text(&server.attributes, "tollhouse.outcome").unwrap() == "paid" && stages.len() == 8 {
            break (server, stages);
        }
        let is_challenge = |span: &Span| text(&span.attributes, "tollhouse.outcome").as_deref() == Some("challenge");
        collector.received.lock().unwrap().spans.retain(|span| !is_challenge(span));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let names: Vec<&str> = stages.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["match", "verify", "simulate", "claim", "settle", "record", "forward", "serve"]);
    assert!(server.parent_span_id.is_empty(), "a stranger's parent: {server:?}");
    assert_ne!(hex(&server.trace_id), &PARENT[3..35]);
    for stage in &stages {
        assert_eq!(stage.parent_span_id, server.span_id, "{}", stage.name);
        assert!(stage.end_time_unix_nano >= stage.start_time_unix_nano, "{}", stage.name);
        assert!(stage.start_time_unix_nano >= server.start_time_unix_nano, "{}", stage.name);
    }
    for pair in stages.windows(2) {
        // One ends before the next begins, but for what is measured by two who don't wait for one another.
        assert!(pair[0].end_time_unix_nano <= pair[1].end_time_unix_nano, "{} {}", pair[0].name, pair[1].name);
    }
    let attribute = |key: &str| text(&server.attributes, key).unwrap_or_default();
    assert_eq!(attribute("http.response.status_code"), "200");
    assert_eq!(attribute("tollhouse.payment"), row.record.to_string());
    assert_eq!(attribute("tollhouse.transaction"), row.settlement.unwrap().transaction);
    assert_eq!(attribute("tollhouse.amount"), "10000");

    let [hit] = &shop.origin.hits()[..] else { panic!("not one hit") };
    let forward = stages.iter().find(|span| span.name == "forward").unwrap();
    let expected = format!("00-{}-{}-01", hex(&server.trace_id), hex(&forward.span_id));
    assert_eq!(hit.header("traceparent"), Some(expected.as_str()));
    assert_eq!(hit.header("tracestate"), None);
    let services = collector.received.lock().unwrap().services.clone();
    assert_eq!(services, BTreeSet::from(["shop".to_owned()]));
    shop.audit().await;
}

#[tokio::test]
async fn a_trusted_proxy_has_its_trace_continued_and_a_free_request_is_one_span() {
    let collector = Collector::start().await;
    let shop = Shop::open_with(traced(collector.port, "trusted_proxies = [\"127.0.0.1\"]")).await;
    let call = Call::get("/health").with("traceparent", PARENT).with("tracestate", "vendor=1");
    assert_eq!(shop.call(&call).await.status, 200);
    let (server, others) = collector.trace("/health", 0).await;
    assert_eq!(
        (hex(&server.trace_id).as_str(), hex(&server.parent_span_id).as_str()),
        (&PARENT[3..35], &PARENT[36..52])
    );
    assert_eq!(others, []);
    let hits = shop.origin.hits();
    let hit = hits.last().unwrap();
    let expected = format!("00-{}-{}-01", &PARENT[3..35], hex(&server.span_id));
    assert_eq!(hit.header("traceparent"), Some(expected.as_str()));
    assert_eq!(hit.header("tracestate"), Some("vendor=1"));

    // What the proxy doesn't sample is no span.
    let unsampled = PARENT.replace("4bf9", "5bf9").replace("b7-01", "b7-00");
    shop.call(&Call::get("/health").with("traceparent", unsampled.clone())).await;
    shop.call(&Call::get("/nowhere")).await;
    collector.trace("-", 0).await;
    assert!(!collector.spans().iter().any(|span| hex(&span.trace_id) == unsampled[3..35]));
    assert!(shop.origin.hits().last().unwrap().header("traceparent").unwrap().ends_with("-00"));
    shop.audit().await;
}

#[tokio::test]
async fn without_a_collector_configured_trace_headers_pass_as_they_came() {
    let shop = Shop::open().await;
    shop.call(&Call::get("/health").with("traceparent", PARENT)).await;
    assert_eq!(shop.origin.hits().last().unwrap().header("traceparent"), Some(PARENT));
    shop.audit().await;
}

/// Takes connections and says nothing on them.
async fn silent_collector() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    port
}

#[tokio::test]
async fn a_collector_that_fails_costs_spans_and_no_request() {
    let shop = Shop::open_with(traced(silent_collector().await, "")).await;
    // More than fit in the queue and the batch on its way.
    let started = Instant::now();
    let calls = (0..8).map(|_| async {
        for _ in 0..700 {
            assert_eq!(shop.call(&Call::get("/nowhere")).await.status, 404);
        }
    });
    futures::future::join_all(calls).await;
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    shop.buy().await;
    shop.assert_sold_once().await;
    let text = metrics(&shop).await;
    let lost = "tollhouse_spans_dropped_total{reason=\"queue_full\"}";
    assert!(text.contains(lost), "{text}");
    shop.audit().await;
}

/// A folder for a log, and a plan whose gateway logs there.
fn logging(access: &str) -> (tempfile::TempDir, PathBuf, Plan) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let access = if access == "stdout" { access.to_owned() } else { path.display().to_string() };
    let plan = Plan { log: Box::leak(format!("info\"\naccess = \"{access}").into_boxed_str()), ..Plan::default() };
    (folder, path, plan)
}

async fn lines(path: &PathBuf, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines in the access log"), Duration::from_secs(10), || async {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn the_access_log_tells_of_a_sale_and_nothing_that_could_be_presented() {
    let (_folder, path, plan) = logging("file");
    let shop = Shop::open_with(plan).await;
    let payment = shop.payment().await;
    let header = payment.v2();
    let target = "/api/data?key=hunter2";
    let answer: Answer = shop.call(&Call { target: target.to_owned(), ..paid(&header) }).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = shop.wait_state(PaymentState::Served).await;
    let lines = lines(&path, 2).await;
    let (terms, sale) = (&lines[0], &lines[1]);
    assert_eq!((&terms["status"], &terms["outcome"]), (&402.into(), &"challenge".into()));
    assert_eq!(terms.get("payment"), None);
    let sold: HashMap<&str, String> = HashMap::from([
        ("client", "127.0.0.1".to_owned()),
        ("method", "GET".to_owned()),
        ("host", "shop.test".to_owned()),
        ("path", "/api/data".to_owned()),
        ("route", "GET,POST /api/data".to_owned()),
        ("outcome", "paid".to_owned()),
        ("payment", row.record.to_string()),
        ("network", "eip155:84532".to_owned()),
        ("asset", row.claim.asset.to_string()),
        ("amount", "10000".to_owned()),
        ("payer", shop.payer.address.to_string()),
        ("transaction", row.settlement.as_ref().unwrap().transaction.clone()),
    ]);
    for (key, value) in sold {
        assert_eq!(sale[key], value.as_str(), "{key}: {sale}");
    }
    assert_eq!((&sale["status"], &sale["bytes"]), (&200.into(), &answer.body.len().into()));
    assert!(sale["micros"].as_u64().unwrap() > 0 && sale["time"].as_str().unwrap().ends_with('Z'), "{sale}");
    let text = std::fs::read_to_string(&path).unwrap();
    let payload: Value = serde_json::from_str(&row.claim.payload).unwrap();
    let signature = payload["signature"].as_str().unwrap();
    for secret in ["hunter2", signature, header.1.as_str()] {
        assert!(!secret.is_empty() && !text.contains(secret), "{secret} is in the access log");
    }
    shop.audit().await;
}

#[tokio::test]
async fn the_access_log_goes_on_in_a_new_file_after_sighup() {
    let (_folder, path, plan) = logging("file");
    let mut shop = Shop::open_with(plan).await;
    shop.call(&Call::get("/health")).await;
    assert_eq!(lines(&path, 1).await[0]["outcome"], "free");
    std::fs::rename(&path, path.with_extension("1")).unwrap();
    shop.gateway().hang_up();
    eventually("a new file", Duration::from_secs(10), || async { path.exists().then_some(()) }).await;
    shop.call(&Call::get("/nowhere?x=1")).await;
    let new = lines(&path, 1).await;
    assert_eq!((new.len(), &new[0]["path"], &new[0]["status"]), (1, &"/nowhere".into(), &404.into()));
    shop.audit().await;
}

#[tokio::test]
async fn a_full_disk_costs_lines_of_the_access_log_and_no_request() {
    let (_folder, path, plan) = logging("file");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let shop = Shop::open_with(plan).await;
    shop.buy().await;
    eventually("lines that were lost", Duration::from_secs(10), || async {
        let text = metrics(&shop).await;
        (!text.contains("tollhouse_access_lines_dropped_total 0")).then_some(())
    })
    .await;
    shop.assert_sold_once().await;
    shop.audit().await;
}

#[tokio::test]
async fn no_client_chooses_a_label() {
    let shop = Shop::open().await;
    let attack = |number: usize| {
        let word = format!("zz{number}");
        [
            Call::get(&format!("/{word}")),
            Call::get(&format!("/api/data?{word}")),
            Call { method: word.to_uppercase(), ..Call::get("/health") },
            Call::get("/api/data").with("Host", word.clone()),
            Call::get("/api/data").with("PAYMENT-SIGNATURE", word.clone()),
            Call::get("/api/data").with("X-PAYMENT", format!("{{\"network\":\"{word}\",\"scheme\":\"{word}\"}}")),
            Call::get("/health").with("X-Forwarded-For", word.clone()).with("traceparent", word),
        ]
    };
    for call in attack(0) {
        let _any = shop.try_call(&call).await;
    }
    let series = |text: &str| -> BTreeSet<String> {
        let names = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0);
        // Calls to nodes and ledger go on by themselves.
        names.filter(|name| !name.contains("_rpc_") && !name.contains("_ledger_")).map(str::to_owned).collect()
    };
    let before = metrics(&shop).await;
    for number in 1..30 {
        for call in attack(number) {
            let _any = shop.try_call(&call).await;
        }
    }
    let after = metrics(&shop).await;
    assert_eq!(series(&before), series(&after));
    assert!(!after.to_lowercase().contains("zz"), "{after}");
    assert!(after.contains("tollhouse_requests_total{outcome=\"not_found\",route=\"-\"}"), "{after}");
    shop.audit().await;
}
