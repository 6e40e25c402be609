"use strict";
// The browser's 402: a wallet signs, the page presents the payment for the page's own URL until an answer comes.
// A payment is stored before it is sent and presented again after whatever went wrong; a second one is signed only
// once the gateway has said that the first is void.
(() => {
  const MINUTES = 60_000;
  const PATIENCE_MS = 5 * MINUTES;
  const SHOWN_CHARS_MAX = 1_000_000;
  const STORE = "tollhouse:payment:" + location.pathname + location.search;
  const byId = (id) => document.getElementById(id);
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const random = (length) => crypto.getRandomValues(new Uint8Array(length));
  const toBase64 = (bytes) => {
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  };
  const fromBase64 = (text) => Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const encode = (value) => toBase64(new TextEncoder().encode(JSON.stringify(value)));
  const decode = (text) => JSON.parse(new TextDecoder().decode(fromBase64(text)));

  // What a page says: the terms of its moment, and for each offer how people read it.
  const readPage = (body) => ({ terms: decode(body.dataset.terms), labels: JSON.parse(body.dataset.labels) });
  const labelOf = (labels, offer) =>
    labels.find((label) =>
      ["network", "asset", "amount", "payTo"].every((key) => String(label[key]) === String(offer[key])));

  // ---- what went wrong, in plain words ----
  class Told extends Error {}
  const SPENT = /already|duplicate/;
  const REASONS = [
    [SPENT, "This payment was used before."],
    [/insufficient_funds|insufficient_balance/, "The account doesn't hold enough of this token."],
    [/expired|valid_before|blockhash_not_found|block_height/, "The signed payment has expired."],
    [/valid_after/, "The signed payment isn't valid yet: this device's clock may be wrong."],
    [/signature/, "The signature isn't the account's."],
    [/simulation_failed|transaction_failed/, "The network refused the payment."],
    [/recipient_token_account|payload_recipient/, "The payment names another receiver."],
  ];
  const inWords = (reason) => {
    const found = REASONS.find(([pattern]) => pattern.test(reason));
    return (found ? found[1] : "The payment was refused.") + " (" + reason + ")";
  };

  // ---- EVM: EIP-1193 wallets, found by EIP-6963 or as window.ethereum ----
  const evm = {
    kind: "eip155",
    fits: () => true,
    takes: (offer) => /^eip155:[0-9]+$/.test(offer.network) && offer.extra?.name && offer.extra?.version,
    async sign(wallet, offer) {
      const request = (method, params) => wallet.provider.request({ method, params });
      const [account] = await request("eth_requestAccounts");
      if (!account) throw new Told("The wallet showed no account.");
      const chainId = Number(offer.network.slice("eip155:".length));
      const wanted = "0x" + chainId.toString(16);
      if (Number(await request("eth_chainId")) !== chainId) {
        status("Your wallet is on another network. Please let it switch.");
        try {
          await request("wallet_switchEthereumChain", [{ chainId: wanted }]);
        } catch (error) {
          if (isRefusal(error)) throw error;
          throw new Told("Your wallet is on another network and can't switch to chain " + chainId +
            ". Add or choose that network in the wallet, then try again.");
        }
        if (Number(await request("eth_chainId")) !== chainId) {
          throw new Told("Your wallet is still on another network than chain " + chainId + ".");
        }
      }
      const authorization = {
        from: account,
        to: offer.payTo,
        value: String(offer.amount),
        validAfter: "0",
        validBefore: String(Math.floor(Date.now() / 1000) + offer.maxTimeoutSeconds),
        nonce: "0x" + hex(random(32)),
      };
      const field = (name, type) => ({ name, type });
      const message = {
        domain: { name: offer.extra.name, version: offer.extra.version, chainId, verifyingContract: offer.asset },
        types: {
          EIP712Domain: [field("name", "string"), field("version", "string"), field("chainId", "uint256"),
            field("verifyingContract", "address")],
          TransferWithAuthorization: [field("from", "address"), field("to", "address"), field("value", "uint256"),
            field("validAfter", "uint256"), field("validBefore", "uint256"), field("nonce", "bytes32")],
        },
        primaryType: "TransferWithAuthorization",
        message: authorization,
      };
      status("Please sign in your wallet. It shows who gets how much.");
      const signature = await request("eth_signTypedData_v4", [account, JSON.stringify(message)]);
      return { signature, authorization };
    },
  };

  const solana = solanaWallets({ Told, hex, random, toBase64, status: (text) => status(text) });

  const isRefusal = (error) => error?.code === 4001 || /reject|denied|declin|cancel/i.test(error?.message ?? "");

  // ---- the page ----
  const page = readPage(document.body);
  const status = (text) => { byId("status").textContent = text; };
  const problem = (text) => { byId("problem").textContent = text; };
  const actions = (...buttons) => byId("actions").replaceChildren(...buttons);
  const button = (text, action, isQuiet) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    if (isQuiet) made.className = "quiet";
    made.addEventListener("click", action);
    return made;
  };

  const stored = () => {
    try {
      return JSON.parse(localStorage.getItem(STORE));
    } catch {
      return null;
    }
  };
  const store = (payment) => {
    try {
      if (payment) localStorage.setItem(STORE, JSON.stringify(payment));
      else localStorage.removeItem(STORE);
    } catch {
      // Without storage the payment lives as long as the page.
    }
  };

  const payable = page.terms.accepts.flatMap((offer) => {
    const label = labelOf(page.labels, offer);
    const adapter = [evm, solana].find((one) => offer.scheme === "exact" && label && one.takes(offer, label));
    return adapter ? [{ offer, label, adapter }] : [];
  });
  const wallets = [];
  let chosen = payable[0];
  let isBusy = false;

  const showWallets = () => {
    const fitting = wallets.filter(({ kind }) => kind === chosen.adapter.kind).filter((wallet) => chosen.adapter.fits(wallet, chosen));
    byId("no-wallet").hidden = fitting.length > 0;
    byId("wallets").replaceChildren(...fitting.map((wallet) => {
      const made = button("Pay with " + wallet.name, () => pay(wallet));
      made.disabled = isBusy;
      if (/^data:image\//.test(wallet.icon ?? "")) {
        const icon = document.createElement("img");
        icon.src = wallet.icon;
        icon.alt = "";
        made.prepend(icon);
      }
      return made;
    }));
  };
  const addWallet = (wallet) => {
    if (wallets.some((known) => known.kind === wallet.kind && known.id === wallet.id)) return;
    wallets.push(wallet);
    showWallets();
  };

  const showOffers = () => {
    byId("offers").append(...payable.map((one, index) => {
      const label = document.createElement("label");
      const input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "offer", checked: index === 0 });
      input.addEventListener("change", () => {
        chosen = one;
        showWallets();
      });
      label.append(input, one.label.text);
      return label;
    }));
  };

  const findWallets = () => {
    addEventListener("eip6963:announceProvider", ({ detail }) => {
      if (detail?.provider && detail.info) {
        addWallet({ kind: evm.kind, id: detail.info.uuid, name: detail.info.name, icon: detail.info.icon, provider: detail.provider });
      }
    });
    dispatchEvent(new Event("eip6963:requestProvider"));
    const register = (...found) => {
      for (const standard of found) {
        const sign = standard.features["solana:signTransaction"];
        if (standard.features["standard:connect"] && sign?.supportedTransactionVersions.includes(0)) {
          addWallet({ kind: solana.kind, id: standard.name, name: standard.name, icon: standard.icon, standard });
        }
      }
      return () => {
        for (const standard of found) {
          const index = wallets.findIndex((wallet) => wallet.standard === standard);
          if (index >= 0) wallets.splice(index, 1);
        }
        showWallets();
      };
    };
    const api = Object.freeze({ register });
    addEventListener("wallet-standard:register-wallet", ({ detail }) => detail(api));
    dispatchEvent(new CustomEvent("wallet-standard:app-ready", { detail: api }));
    setTimeout(() => {
      if (window.ethereum && !wallets.some(({ kind }) => kind === evm.kind)) {
        addWallet({ kind: evm.kind, id: "window.ethereum", name: "the browser's wallet", provider: window.ethereum });
      }
    }, 300);
  };

  const busy = (now) => {
    isBusy = now;
    byId("form").setAttribute("aria-busy", String(now));
    for (const input of byId("form").querySelectorAll("input")) input.disabled = now;
    showWallets();
  };

  // The terms of this moment; those that the page came with may have been waiting for hours.
  const freshTerms = async () => {
    const answer = await fetch(location.pathname + location.search,
      { headers: { accept: "text/html" }, cache: "no-store", redirect: "manual" });
    const text = await answer.text();
    const body = new DOMParser().parseFromString(text, "text/html").body;
    if (answer.status !== 402 || !body.dataset.terms) {
      throw new Told("The terms have changed. Please load this page again.");
    }
    const fresh = readPage(body);
    const offer = fresh.terms.accepts.find((one) => ["scheme", "network", "asset", "amount", "payTo"]
      .every((key) => one[key] === chosen.offer[key]));
    const label = offer && labelOf(fresh.labels, offer);
    if (!label) throw new Told("The price has changed. Please load this page again.");
    return { terms: fresh.terms, offer, label };
  };

  const extensionsOf = (terms) => {
    const named = terms.extensions?.["payment-identifier"];
    if (!named) return {};
    return { "payment-identifier": { ...named, info: { ...named.info, id: "pay_" + hex(random(16)) } } };
  };

  // A payment that was signed before comes first, in whichever tab it was signed.
  const keptBack = () => {
    const open = stored();
    if (open) giveUp(open, "You signed a payment for this page before; it was not answered yet.");
    return open !== null;
  };

  const pay = async (wallet) => {
    if (isBusy || keptBack()) return;
    problem("");
    actions();
    busy(true);
    let payment = null;
    try {
      status("Asking for the terms…");
      const { terms, offer, label } = await freshTerms();
      status("Please look at your wallet.");
      const payload = await chosen.adapter.sign(wallet, offer, label);
      const signed = { x402Version: 2, resource: terms.resource, accepted: offer, payload };
      const extensions = extensionsOf(terms);
      if (Object.keys(extensions).length > 0) signed.extensions = extensions;
      // One that another tab signed meanwhile is on its way; this one never leaves the page.
      if (!keptBack()) payment = { header: encode(signed), text: label.text, signedAt: Date.now() };
    } catch (error) {
      status("");
      if (error instanceof Told) problem(error.message);
      else if (isRefusal(error)) problem("You refused in your wallet. Nothing was signed and nothing was charged.");
      else problem("The wallet failed: " + (error?.message ?? "no reason given") + " Nothing was charged.");
    } finally {
      busy(false);
    }
    if (payment) await present(payment);
  };

  const receiptOf = (answer) => {
    const header = answer.headers.get("payment-response") ?? answer.headers.get("x-payment-response");
    try {
      return header ? decode(header) : null;
    } catch {
      return null;
    }
  };

  // Presents one signed payment until it is known how it ended.
  const present = async (payment) => {
    store(payment);
    busy(true);
    actions();
    problem("");
    try {
      await presentUntilDecided(payment);
    } catch {
      giveUp(payment, "The answer can't be read. Your payment is kept in this browser.");
    } finally {
      busy(false);
    }
  };

  const presentUntilDecided = async (payment) => {
    const until = Date.now() + PATIENCE_MS;
    status("The payment is on its way…");
    for (;;) {
      let answer;
      try {
        answer = await fetch(location.pathname + location.search,
          { headers: { "payment-signature": payment.header, "x-payment-page": "1", accept: "*/*" }, cache: "no-store", redirect: "manual" });
      } catch {
        answer = null;
      }
      const next = answer ? await judge(answer, payment) : "The gateway doesn't answer. The same payment is presented again…";
      if (next === "over") return;
      if (Date.now() > until) {
        giveUp(payment, "There is still no answer. Your payment is kept in this browser and stays good: present it again later.");
        return;
      }
      status(next);
      await sleep(1000 * Math.min(30, Math.max(1, Number(answer?.headers.get("retry-after")) || 2)));
    }
  };

  // "over", or what to say while the same payment is presented again. A payment is forgotten only once its whole answer is
  // here, or once the gateway has refused it without having sent it to its chain.
  const judge = async (answer, payment) => {
    const over = (text) => {
      giveUp(payment, text, receipt);
      return "over";
    };
    const receipt = receiptOf(answer);
    if (answer.type === "opaqueredirect") {
      // The gateway tells this page of its redirects: this one is of something in front of it.
      return over("Something redirected the request, and browsers keep from pages what it said. Your payment is kept.");
    }
    if (receipt?.success && answer.status < 500 && answer.status !== 409) {
      if (await showAnswer(payment, answer, receipt)) {
        store(null);
        return "over";
      }
      byId("result").hidden = true;
      byId("pay").hidden = false;
      return over("You paid, and the answer was cut off. Your payment may be presented again.");
    }
    const isJson = (answer.headers.get("content-type") ?? "").includes("json");
    const said = (isJson && await answer.clone().json().catch(() => null)) || {};
    const reason = receipt?.errorReason ?? said.error ?? "";
    if (answer.status === 402) {
      const why = reason || refusedFor(answer);
      // A settlement that failed can still be credited as long as its signature is good (contract §3, last row).
      if (receipt) return over(inWords(why) + " You were not charged. Should its money move after all, the same payment buys the answer.");
      store(null);
      status("");
      problem(inWords(why) + (SPENT.test(why) ? " It may have been charged then, and is not charged again." : " You were not charged for it."));
      byId("form").hidden = payable.length === 0;
      return "over";
    }
    if (answer.status === 409 && reason === "payment_owed") {
      return over("You paid, but the answer can't be delivered any more: the payment is owed to you. Ask the operator for a refund.");
    }
    if (answer.status === 409 && reason !== "payment_in_progress") return over("This payment was made for another request.");
    if (receipt?.success) {
      return over("You paid, but the server behind the gateway failed. " +
        (said.retry ? "The gateway says: " + said.retry + "." : "Your payment may be presented again."));
    }
    if (answer.status < 500 && answer.status !== 409 && answer.status !== 429) {
      return over("The server answered " + answer.status + " and said nothing of the payment" + (reason ? " (" + reason + ")" : "") +
        ". Whether an earlier try was charged is not known here; your payment is kept.");
    }
    const transaction = said.transaction || receipt?.transaction;
    if (transaction) return "The payment is being settled: " + transaction + "…";
    if (reason === "payment_in_progress" || reason === "settlement_pending") return "The payment is being settled…";
    return "The gateway can't take the payment now (" + (reason || answer.status) + "). The same one is presented again…";
  };

  const refusedFor = (answer) => {
    try {
      return decode(answer.headers.get("payment-required")).error;
    } catch {
      return "refused";
    }
  };

  const giveUp = (payment, text, receipt) => {
    status("");
    problem(text + (receipt?.transaction ? " Transaction: " + receipt.transaction : ""));
    offerAgain(payment);
  };
  // Until then nothing else can be paid for here.
  const offerAgain = (payment) => {
    byId("form").hidden = true;
    actions(
      button("Present the same payment again", () => present(payment)),
      button("Forget it", () => {
        if (confirm("Forget this payment? If its money moved or still moves, you will have paid for nothing.")) {
          store(null);
          problem("");
          status("");
          actions();
          byId("form").hidden = payable.length === 0;
        }
      }, true),
    );
  };

  // ---- the answer ----
  const fileName = (answer) => {
    const given = /filename="?([^";]+)"?/i.exec(answer.headers.get("content-disposition") ?? "")?.[1];
    return (given ?? (location.pathname.split("/").filter(Boolean).pop() || "answer")).replace(/[/\\]/g, "_");
  };
  // Whether all of it came.
  const showAnswer = async (payment, answer, receipt) => {
    status("");
    byId("pay").hidden = true;
    byId("result").hidden = false;
    byId("result-title").focus();
    document.title = "Paid";
    showReceipt(payment, answer, receipt);
    const shown = byId("answer");
    shown.replaceChildren();
    const type = answer.headers.get("content-type") ?? "";
    const parts = [];
    try {
      if (/^(text\/|application\/([a-z.+-]+\+)?(json|xml))/.test(type)) await showText(answer, type, shown, parts);
      else parts.push(await answer.arrayBuffer());
    } catch {
      return false;
    }
    const blob = new Blob(parts, { type });
    const url = URL.createObjectURL(blob);
    const media = { image: "img", audio: "audio", video: "video" }[type.split("/")[0]];
    const location = locationOf(answer);
    if (location) {
      shown.replaceChildren(note("The answer is a redirect: "));
      shown.firstChild.append(location);
    } else if (media) {
      const element = document.createElement(media);
      element.src = url;
      if (media === "img") element.alt = "The answer";
      else element.controls = true;
      shown.append(element);
    } else if (!shown.firstChild) {
      shown.append(note(blob.size ? "The answer is a file of " + blob.size + " bytes." : "The answer is empty."));
    }
    Object.assign(byId("save"), { href: url, download: fileName(answer), hidden: blob.size === 0 || location !== null });
    return true;
  };
  // Where an answer leads that is a redirect.
  const locationOf = (answer) => {
    const header = answer.headers.get("x-payment-location");
    if (header === null) return null;
    const link = document.createElement("a");
    link.textContent = header;
    try {
      const url = new URL(header, answer.url);
      if (["http:", "https:"].includes(url.protocol)) Object.assign(link, { href: url.href, textContent: url.href });
    } catch {
      // Shown as it came.
    }
    return link;
  };
  const note = (text) => {
    const made = document.createElement("p");
    made.textContent = text;
    return made;
  };
  // Text appears as it comes; JSON is set out once it is whole.
  const showText = async (answer, type, shown, parts) => {
    const box = document.createElement("pre");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "The answer");
    shown.append(box);
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let chars = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      const text = decoder.decode(value, { stream: true });
      if (chars < SHOWN_CHARS_MAX) box.append(text.slice(0, SHOWN_CHARS_MAX - chars));
      chars += text.length;
    }
    if (type.includes("json") && chars <= SHOWN_CHARS_MAX) {
      try {
        box.textContent = JSON.stringify(JSON.parse(box.textContent), null, 2);
      } catch {
        // Shown as it came.
      }
    } else if (chars > SHOWN_CHARS_MAX) {
      shown.append(note("Only its beginning is shown; save it to have all of it."));
    }
  };
  const showReceipt = (payment, answer, receipt) => {
    const rows = [["Paid", payment.text], ["Transaction", receipt?.transaction], ["Network", receipt?.network],
      ["Payer", receipt?.payer], ["Status", answer.headers.has("x-payment-location") ? "redirect" : String(answer.status)]];
    byId("receipt").replaceChildren(...rows.filter(([, value]) => value).flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value;
      return [term, text];
    }));
  };

  // A page that came in answer to anything but a GET can't ask for the same thing again.
  const pending = stored();
  if (document.body.dataset.method !== "GET" || (payable.length === 0 && !pending)) return;
  byId("pay").hidden = false;
  if (payable.length > 0) {
    showOffers();
    findWallets();
    showWallets();
  } else {
    byId("form").hidden = true;
  }
  if (pending) {
    status("You signed a payment for this page before (" + pending.text + "). It was not answered yet.");
    offerAgain(pending);
  }
})();
