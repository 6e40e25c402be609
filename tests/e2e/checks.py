"""What must hold, check by check; `checks` lists them with their names."""

import base64
import concurrent.futures
import json
from functools import partial

from chain import WALLET
from cosmos_checks import (
    REFUSALS,
    check_cosmjs_makes_the_documents_vectors,
    check_overspend_in_a_block,
    check_refusal,
)
from harness import expect, expect_equal
from official import CLIENTS, COSMJS, FORMS, run_client
from shop import ANY_PATH, EITHER_PATH, PRICE, PRICED_PATH, SOLANA_PATH
from solana_chain import FEE_PAYER_KEY

OFFER_HEADER_BYTES_MAX = 8192
FORGED = {
    "X-Payment-Payer": "0x00000000000000000000000000000000000f0f0f",
    "X-Payment-Network": "forged",
    "X-Payment-Transaction": "0xf0f0f0",
    "X-Payment-Amount": "999999999",
    "X-Payment-Asset": "forged",
}
PAYMENT_HEADERS = ("payment-signature", "x-payment", "payment-required", "payment-response", "x-payment-response")


def check_terms(answer, shop, gateway, path):
    """One 402 that serves v1 and v2 clients: protocol §1.3."""
    chains = shop.offered[path]
    expect_equal("status", answer.status, 402)
    expect("no-store" in answer.headers.get("cache-control", ""), "a 402 must say Cache-Control: no-store")
    header = answer.headers.get("payment-required")
    expect(header is not None, "no PAYMENT-REQUIRED header")
    expect(len(header) <= OFFER_HEADER_BYTES_MAX, f"PAYMENT-REQUIRED has {len(header)} bytes")
    terms = json.loads(base64.b64decode(header, validate=True))
    expect_equal("x402Version of the header", terms["x402Version"], 2)
    expect_equal("v2 resource", terms["resource"]["url"], gateway.url(path))
    expect_equal("v2 networks", [offer["network"] for offer in terms["accepts"]], [it.network_v2 for it in chains])
    expect_equal("bazaar", terms["extensions"]["bazaar"]["info"], {"input": {"type": "http", "method": "GET"}})

    expect("json" in answer.headers.get("content-type", ""), "the body of a 402 must be JSON")
    body = json.loads(answer.body)
    expect_equal("x402Version of the body", body["x402Version"], 1)
    expect(isinstance(body["error"], str) and body["error"], "v1 error must be a string that says something")
    in_v1 = [it.network_v1 for it in chains if it.network_v1 is not None]
    expect_equal("v1 networks", [offer["network"] for offer in body["accepts"]], in_v1)
    v1_offers = {offer["network"]: offer for offer in body["accepts"]}
    for chain, v2 in zip(chains, terms["accepts"]):
        v1 = v1_offers.get(chain.network_v1)
        check_v2_offer(v2, chain)
        if v1 is not None:
            check_v1_offer(v1, chain, gateway.url(path))
        chain.check_extra(v2["extra"], v1 and v1["extra"])


def check_v2_offer(offer, chain):
    expect_equal("v2 scheme", offer["scheme"], "exact")
    expect_equal("v2 amount", offer["amount"], str(PRICE))
    chain.same("v2 asset", offer["asset"], chain.asset)
    chain.same("v2 payTo", offer["payTo"], chain.pay_to)
    expect(isinstance(offer["maxTimeoutSeconds"], int), "v2 maxTimeoutSeconds must be an integer")
    expect(offer["extra"].get("quote"), "the v2 offer carries no extra.quote")


def check_v1_offer(offer, chain, url):
    expect_equal("v1 scheme", offer["scheme"], "exact")
    expect_equal("v1 maxAmountRequired", offer["maxAmountRequired"], str(PRICE))
    chain.same("v1 asset", offer["asset"], chain.asset)
    chain.same("v1 payTo", offer["payTo"], chain.pay_to)
    expect(isinstance(offer["maxTimeoutSeconds"], int), "v1 maxTimeoutSeconds must be an integer")
    expect_equal("v1 resource", offer["resource"], url)
    expect(isinstance(offer["description"], str), "v1 description must be a string")
    expect(isinstance(offer["mimeType"], str), "v1 mimeType must be a string")
    expect_equal("null fields of the v1 offer", [key for key, value in offer.items() if value is None], [])


def check_unpaid_requests_get_terms(shop, gateway):
    hits = len(shop.origin.requests)
    for path in shop.offered:
        check_terms(gateway.get(path), shop, gateway, path)
        check_terms(gateway.get(path, FORGED), shop, gateway, path)
        for name in ("PAYMENT-SIGNATURE", "X-PAYMENT"):
            check_terms(gateway.get(path, {name: "bm90IGEgcGF5bWVudA=="}), shop, gateway, path)
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)


def check_terms_behind_tls_name_an_https_resource(shop):
    expect(shop.shadow.url(PRICED_PATH).startswith("https://"), "the gateway behind TLS has no https URL")
    # check_terms compares the resource of both dialects with that URL.
    check_unpaid_requests_get_terms(shop, shop.shadow)
    elsewhere = shop.shadow.get(PRICED_PATH, {"Host": "elsewhere.example"})
    check_terms(elsewhere, shop, shop.shadow, PRICED_PATH)


def check_unknown_paths_never_reach_the_origin(shop):
    hits = len(shop.origin.requests)
    expect_equal("status", shop.gateway.get("/nowhere").status, 404)
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)


def check_free_requests_pass_without_forged_headers(shop):
    answer = shop.gateway.get("/health", FORGED | {"X-Kept": "kept"})
    expect_equal("status", answer.status, 200)
    headers = shop.origin.hits("/health")[-1]["headers"]
    expect_equal("x-kept", headers.get("x-kept"), ["kept"])
    forged = [name for name in headers if name.startswith("x-payment-")]
    expect_equal("payment headers at the origin", forged, [])


def check_receipt(receipt, dialect, chain, payer, transaction):
    expect(receipt is not None, "a paid answer without its receipt header")
    expect_equal("success", receipt["success"], True)
    chain.same("transaction of the receipt", receipt["transaction"], transaction)
    expect_equal("network of the receipt", receipt["network"], chain.network_name(dialect))
    if dialect == "vitwit":
        expect_equal("vitwit's status", receipt["status"], "success")
        chain.same("vitwit's transaction", receipt["transactionHash"], transaction)
    chain.same("payer of the receipt", receipt["payer"], payer)


def check_origin_request(request, chain, payer, transaction):
    headers = request["headers"]
    for name in PAYMENT_HEADERS:
        expect(name not in headers, f"{name} reached the origin")
    once = {}
    for name in FORGED:
        values = headers.get(name.lower(), [])
        expect(len(values) == 1, f"{name} at the origin: {values}")
        once[name] = values[0]
    chain.same("X-Payment-Payer", once["X-Payment-Payer"], payer)
    expect_equal("X-Payment-Network", once["X-Payment-Network"], chain.network_v2)
    chain.same("X-Payment-Transaction", once["X-Payment-Transaction"], transaction)
    expect_equal("X-Payment-Amount", once["X-Payment-Amount"], str(PRICE))
    chain.same("X-Payment-Asset", once["X-Payment-Asset"], chain.asset)


def check_payment_echoes_the_offer(payment, offer, chain):
    """What binds a v2 payment to the offer it was made for: every official v2 client sends both back as they came."""
    expect(offer is not None, "the client saw no PAYMENT-REQUIRED header")
    expect_equal("resource of the payment", payment["resource"]["url"], offer["resource"]["url"])
    [offered] = [it for it in offer["accepts"] if it["network"] == chain.network_v2]
    expect(offered["extra"]["quote"], "the client was offered no quote")
    expect_equal("quote of the payment", payment["accepted"]["extra"].get("quote"), offered["extra"]["quote"])


def unwrapped(payload):
    """The payload as an object: vitwit writes it, or on Cosmos the transaction alone, as a base64 string."""
    if not isinstance(payload, str):
        return payload
    try:
        return json.loads(base64.b64decode(payload))
    except ValueError:
        return {"transaction": payload}


def check_client_pays(shop, gateway, client, wallet=None, path=PRICED_PATH, chain=None):
    """One client: pays once, gets the answer once, and can't get it again with the same header. `wallet`: the contract
    that pays in the place of its owner. `chain`: the one that the client has a key for, if not the EVM one."""
    chain = chain or shop.chain
    payer, pay_to = wallet or chain.payer, chain.pay_to
    before, balance, hits = chain.now(), chain.balance(pay_to), len(shop.origin.requests)
    report = run_client(client, gateway, gateway.url(path), chain.client_environment(), FORGED, wallet)
    expect_equal(f"status (body: {report['body'][:500]})", report["status"], 200)
    expect_equal("body", json.loads(report["body"]), {"origin": True, "path": path})
    expect_equal("money earned", chain.balance(pay_to) - balance, PRICE)
    transfers = chain.transfers_since(before)
    expect_equal("transfers", len(transfers), 1)
    [(source, target, value, transaction)] = transfers
    chain.same("source of the transfer", source, payer)
    chain.same("target of the transfer", target, pay_to)
    expect_equal("value of the transfer", value, PRICE)
    check_receipt(report["paymentResponse"], client.dialect, chain, payer, transaction)
    check_receipt(report["xPaymentResponse"], client.dialect, chain, payer, transaction)
    expect("private" in report["headers"].get("cache-control", ""), "a paid answer must say Cache-Control: private")
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 1)
    check_origin_request(shop.origin.requests[-1], chain, payer, transaction)

    header = report["paymentHeader"]
    expect_equal("payment header", header["name"], "payment-signature" if client.dialect == "v2" else "x-payment")
    payment = json.loads(base64.b64decode(header["value"]))
    if client.dialect == "v2":
        check_payment_echoes_the_offer(payment, report["offer"], chain)
    for secret in (header["value"], chain.signed(unwrapped(payment["payload"]))):
        expect(secret not in gateway.process.text(), "the payment is in the gateway's log")
    check_terms(gateway.get(path, {header["name"]: header["value"]}), shop, gateway, path)
    expect_equal("hits at the origin after a replay", len(shop.origin.requests) - hits, 1)
    expect_equal("money earned after a replay", chain.balance(pay_to) - balance, PRICE)


def check_resource_server_is_paid_through_the_facilitator(shop, client):
    """Official middleware with the gateway as its facilitator: served once for one payment, however often it comes."""
    server = shop.resource_server
    chain = shop.chain
    before, balance, answered = chain.now(), chain.balance(chain.pay_to), server.answered()
    expect_equal("status without payment", server.get("/report").status, 402)
    report = run_client(client, server, server.url, chain.client_environment(), {})
    expect_equal(f"status (body: {report['body'][:500]})", report["status"], 200)
    expect_equal("body", json.loads(report["body"]), {"express": True})
    expect_equal("money earned", chain.balance(chain.pay_to) - balance, PRICE)
    transfers = chain.transfers_since(before)
    expect_equal("transfers", len(transfers), 1)
    [(source, target, value, transaction)] = transfers
    chain.same("source of the transfer", source, chain.payer)
    chain.same("target of the transfer", target, chain.pay_to)
    expect_equal("value of the transfer", value, PRICE)
    check_receipt(report["paymentResponse"], "v2", chain, chain.payer, transaction)

    header = {report["paymentHeader"]["name"]: report["paymentHeader"]["value"]}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        again = list(pool.map(lambda _: server.get("/report", header).status, range(10)))
    expect_equal("statuses of replays", again, [402] * 10)
    expect_equal("status at the gateway itself", shop.gateway.get(PRICED_PATH, header).status, 402)
    expect_equal("answers", server.answered() - answered, 1)
    expect_equal("money earned after replays", chain.balance(chain.pay_to) - balance, PRICE)


def check_gateway_ends_in_peace(gateway):
    expect_equal("exit code after SIGTERM", gateway.process.terminate(), 0)
    for key in (gateway.signer_key.removeprefix("0x"), FEE_PAYER_KEY):
        expect(key.lower() not in gateway.process.text().lower(), "a signer's key is in the log")


def checks(shop):
    yield "unpaid requests get terms for v1 and v2", lambda: check_unpaid_requests_get_terms(shop, shop.gateway)
    yield "unknown paths never reach the origin", lambda: check_unknown_paths_never_reach_the_origin(shop)
    yield "free requests pass, without forged headers", lambda: check_free_requests_pass_without_forged_headers(shop)
    for name, client in CLIENTS.items():
        yield f"{name} pays once", partial(check_client_pays, shop, shop.gateway, client)
        yield f"{name} pays once from a contract", partial(check_client_pays, shop, shop.gateway, client, WALLET)
        if client.solana:
            pays = partial(check_client_pays, shop, shop.gateway, client)
            yield f"{name} pays once on Solana", partial(pays, path=SOLANA_PATH, chain=shop.solana)
            yield f"{name} pays on EVM where either is offered", partial(pays, path=EITHER_PATH)
            yield f"{name} pays on Solana where either is offered", partial(pays, path=EITHER_PATH, chain=shop.solana)
    for name, client in COSMJS.items():
        pays = partial(check_client_pays, shop, shop.gateway, client, path=ANY_PATH)
        yield f"{name} pays once", partial(pays, chain=shop.cosmos)
        for what, (changes, reason) in REFUSALS.items():
            refused = partial(check_refusal, shop, ANY_PATH, client.mode, changes, reason)
            yield f"{name}: {what} is refused", refused
        yield f"{name}: an overspend in a block is refused", partial(check_overspend_in_a_block, shop, ANY_PATH, client.mode)
    any_client = partial(check_client_pays, shop, shop.gateway, CLIENTS["npm @x402/fetch 2.27.0, v2"], path=ANY_PATH)
    yield "where all three are offered, EVM is paid", any_client
    yield "where all three are offered, Solana is paid", partial(any_client, chain=shop.solana)
    for form, client in FORMS.items():
        pays = partial(check_client_pays, shop, shop.gateway, client, path=ANY_PATH)
        for name, chain in (("EVM", shop.chain), ("Solana", shop.solana), ("Cosmos", shop.cosmos)):
            yield f"where all three are offered, {name} is paid in the {form} form", partial(pays, chain=chain)
    yield "@cosmjs makes the document's vectors", check_cosmjs_makes_the_documents_vectors
    yield "terms behind TLS name an https resource", lambda: check_terms_behind_tls_name_an_https_resource(shop)
    for name, client in CLIENTS.items():
        if client.tls:
            yield f"{name} pays once through TLS", partial(check_client_pays, shop, shop.shadow, client)
    yield (
        "npm @x402/express 2.27.0 is paid through the facilitator API",
        lambda: check_resource_server_is_paid_through_the_facilitator(shop, CLIENTS["npm @x402/fetch 2.27.0, v2"]),
    )
    for gateway in (shop.gateway, shop.shadow):
        yield f"{gateway.name} ends in peace", partial(check_gateway_ends_in_peace, gateway)
