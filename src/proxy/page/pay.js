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
  const REASONS = [
    [/insufficient_funds|insufficient_balance/, "The account doesn't hold enough of this token."],
    [/expired|valid_before|blockhash_not_found|block_height/, "The signed payment has expired."],
    [/valid_after/, "The signed payment isn't valid yet: this device's clock may be wrong."],
    [/signature/, "The signature isn't the account's."],
    [/simulation_failed|transaction_failed/, "The network refused the payment."],
    [/recipient_token_account|payload_recipient/, "The payment names another receiver."],
    [/already_used|nonce|duplicate/, "This payment was used already."],
  ];
  const inWords = (reason) => {
    const found = REASONS.find(([pattern]) => pattern.test(reason));
    return (found ? found[1] : "The payment was refused.") + " (" + reason + ")";
  };

  // ---- EVM: EIP-1193 wallets, found by EIP-6963 or as window.ethereum ----
  const evm = {
    kind: "eip155",
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

  // ---- Solana: wallets of the wallet standard ----
  const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  const fromBase58 = (text) => {
    let number = 0n;
    for (const char of text) {
      const digit = ALPHABET.indexOf(char);
      if (digit < 0) throw new Told("An address of the terms can't be read.");
      number = number * 58n + BigInt(digit);
    }
    const bytes = [];
    for (; number > 0n; number >>= 8n) bytes.unshift(Number(number & 255n));
    for (const char of text) {
      if (char !== "1") break;
      bytes.unshift(0);
    }
    return Uint8Array.from(bytes);
  };
  const littleEndian = (number, length) => {
    const bytes = new Uint8Array(length);
    for (let index = 0, rest = BigInt(number); index < length; index += 1, rest >>= 8n) bytes[index] = Number(rest & 255n);
    return bytes;
  };
  const joined = (...parts) => {
    const bytes = parts.flatMap((part) => Array.from(typeof part === "number" ? [part] : part));
    return Uint8Array.from(bytes);
  };
  // Whether 32 bytes are a point of ed25519 (RFC 8032 §5.1.3): a program's address never is.
  const isOnCurve = (bytes) => {
    const p = 2n ** 255n - 19n;
    const power = (base, exponent) => {
      let result = 1n;
      for (let b = base % p, e = exponent; e > 0n; e >>= 1n, b = (b * b) % p) if (e & 1n) result = (result * b) % p;
      return result;
    };
    const d = ((p - 121665n) * power(121666n, p - 2n)) % p;
    let y = 0n;
    for (let index = 31; index >= 0; index -= 1) y = (y << 8n) | BigInt(index === 31 ? bytes[index] & 127 : bytes[index]);
    const square = (y * y) % p;
    const x2 = ((square + p - 1n) * power((d * square + 1n) % p, p - 2n)) % p;
    return x2 === 0n || power(x2, (p - 1n) / 2n) === 1n;
  };
  const TOKEN_ACCOUNTS = fromBase58("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
  const COMPUTE_BUDGET = fromBase58("ComputeBudget111111111111111111111111111111");
  const MEMO = fromBase58("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
  const COMPUTE_UNITS = 20_000;
  const tokenAccount = async (owner, program, mint) => {
    const text = new TextEncoder().encode("ProgramDerivedAddress");
    for (let bump = 255; bump >= 0; bump -= 1) {
      const seeds = joined(owner, program, mint, bump, TOKEN_ACCOUNTS, text);
      const address = new Uint8Array(await crypto.subtle.digest("SHA-256", seeds));
      if (!isOnCurve(address)) return address;
    }
    throw new Told("The account has no token account.");
  };
  const SOLANA_CHAINS = {
    "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp": "solana:mainnet",
    "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1": "solana:devnet",
    "solana:4uhcVJyU9pJkvQyS88uRDiswHScCkQ9e": "solana:testnet",
  };
  const solana = {
    kind: "solana",
    takes: (offer, label) => offer.network in SOLANA_CHAINS && offer.extra?.feePayer && label.blockhash,
    async sign(wallet, offer, label) {
      const chain = SOLANA_CHAINS[offer.network];
      const { accounts } = await wallet.standard.features["standard:connect"].connect();
      const account = accounts.find((one) => one.chains.includes(chain)) ?? accounts[0];
      if (!account) throw new Told("The wallet showed no account.");
      const program = fromBase58(label.tokenProgram);
      const mint = fromBase58(offer.asset);
      const owner = account.publicKey;
      const source = await tokenAccount(owner, program, mint);
      const destination = await tokenAccount(fromBase58(offer.payTo), program, mint);
      const memo = new TextEncoder().encode(offer.extra.memo ?? hex(random(16)));
      // Writable signers, other signers, writable accounts, the rest.
      const keys = [fromBase58(offer.extra.feePayer), owner, source, destination, mint, program, COMPUTE_BUDGET, MEMO];
      const instruction = (programIndex, accountIndexes, data) =>
        joined(programIndex, accountIndexes.length, accountIndexes, compactLength(data.length), data);
      const message = joined(
        0x80, 2, 1, 4, keys.length, ...keys, fromBase58(label.blockhash), 4,
        instruction(6, [], joined(2, littleEndian(COMPUTE_UNITS, 4))),
        instruction(6, [], joined(3, littleEndian(1, 8))),
        instruction(5, [2, 4, 3, 1], joined(12, littleEndian(offer.amount, 8), label.decimals)),
        instruction(7, [], memo),
        0,
      );
      const transaction = joined(2, new Uint8Array(128), message);
      status("Please sign in your wallet. It shows who gets how much.");
      const [signed] = await wallet.standard.features["solana:signTransaction"]
        .signTransaction({ account, chain, transaction });
      return { transaction: toBase64(signed.signedTransaction) };
    },
  };
  // Lengths as Solana writes them: seven bits a byte.
  const compactLength = (length) => (length < 128 ? [length] : [(length & 127) | 128, length >> 7]);

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
    const fitting = wallets.filter((wallet) => wallet.kind === chosen.adapter.kind);
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
        if (standard.features?.["standard:connect"] && standard.features?.["solana:signTransaction"]) {
          addWallet({ kind: solana.kind, id: standard.name, name: standard.name, icon: standard.icon, standard });
        }
      }
      return () => {};
    };
    const api = Object.freeze({ register });
    addEventListener("wallet-standard:register-wallet", ({ detail }) => {
      if (typeof detail === "function") detail(api);
    });
    dispatchEvent(new CustomEvent("wallet-standard:app-ready", { detail: api }));
    setTimeout(() => {
      if (window.ethereum && !wallets.some((wallet) => wallet.kind === evm.kind)) {
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

  const pay = async (wallet) => {
    if (isBusy) return;
    problem("");
    actions();
    busy(true);
    try {
      status("Asking for the terms…");
      const { terms, offer, label } = await freshTerms();
      status("Please look at your wallet.");
      const payload = await chosen.adapter.sign(wallet, offer, label);
      const payment = { x402Version: 2, resource: terms.resource, accepted: offer, payload };
      const extensions = extensionsOf(terms);
      if (Object.keys(extensions).length > 0) payment.extensions = extensions;
      await present({ header: encode(payment), text: label.text, signedAt: Date.now() });
    } catch (error) {
      status("");
      if (error instanceof Told) problem(error.message);
      else if (isRefusal(error)) problem("You refused in your wallet. Nothing was signed and nothing was charged.");
      else problem("The wallet failed: " + (error?.message ?? "no reason given") + " Nothing was charged.");
    } finally {
      busy(false);
    }
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
    const until = Date.now() + PATIENCE_MS;
    let said = "The payment is on its way…";
    for (;;) {
      status(said);
      let answer;
      try {
        answer = await fetch(location.pathname + location.search,
          { headers: { "payment-signature": payment.header, accept: "*/*" }, cache: "no-store", redirect: "manual" });
      } catch {
        answer = null;
      }
      const ending = answer && await judge(answer, payment);
      if (ending === "over") break;
      if (Date.now() > until) {
        giveUp(payment, "There is still no answer. Your payment is kept in this browser and stays good: present it again later.");
        break;
      }
      said = answer ? ending : "The gateway doesn't answer. The same payment is presented again…";
      await sleep(1000 * Math.min(30, Math.max(1, Number(answer?.headers.get("retry-after")) || 2)));
    }
    busy(false);
  };

  // "over", or what to say while the same payment is presented again.
  const judge = async (answer, payment) => {
    const receipt = receiptOf(answer);
    const isJson = (answer.headers.get("content-type") ?? "").includes("json");
    if (answer.type === "opaqueredirect") {
      store(null);
      await showAnswer(payment, null, receipt);
      return "over";
    }
    if (receipt?.success && answer.status < 500 && answer.status !== 409) {
      store(null);
      await showAnswer(payment, answer, receipt);
      return "over";
    }
    const said = isJson ? await answer.clone().json().catch(() => ({})) : {};
    const reason = receipt?.errorReason ?? said.error ?? "";
    if (answer.status === 402) {
      // No terms are ever shown to a payment that may still move money.
      store(null);
      status("");
      problem(inWords(reason || refusedFor(answer)) + " You were not charged for it.");
      return "over";
    }
    if (answer.status < 400) {
      // Free by now: the payment was not looked at.
      store(null);
      await showAnswer(null, answer, null);
      return "over";
    }
    if (answer.status === 409 && reason !== "payment_in_progress") {
      if (reason === "payment_owed") giveUp(payment, "You paid, but the answer can't be delivered any more: the payment is owed to you. Ask the operator for a refund.", receipt);
      else giveUp(payment, "This payment was made for another request.", receipt);
      return "over";
    }
    if (receipt?.success) {
      giveUp(payment, "You paid, but the server behind the gateway failed. " +
        (said.retry ? "The gateway says: " + said.retry + "." : "Your payment may be presented again."), receipt);
      return "over";
    }
    if (answer.status < 500 && answer.status !== 409 && answer.status !== 429) {
      giveUp(payment, "The server answered " + answer.status + " and took no payment." + (reason ? " (" + reason + ")" : ""), receipt);
      return "over";
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
  const offerAgain = (payment) => actions(
    button("Present the same payment again", () => present(payment)),
    button("Forget it", () => {
      if (confirm("Forget this payment? If its money moved or still moves, you will have paid for nothing.")) {
        store(null);
        problem("");
        actions();
        byId("form").hidden = false;
      }
    }, true),
  );

  // ---- the answer ----
  const fileName = (answer) => {
    const given = /filename="?([^";]+)"?/i.exec(answer.headers.get("content-disposition") ?? "")?.[1];
    return (given ?? (location.pathname.split("/").filter(Boolean).pop() || "answer")).replace(/[/\\]/g, "_");
  };
  const showAnswer = async (payment, answer, receipt) => {
    status("");
    byId("pay").hidden = true;
    byId("result").hidden = false;
    byId("result-title").focus();
    document.title = "Paid";
    showReceipt(payment, answer, receipt);
    const shown = byId("answer");
    if (!answer) {
      shown.textContent = "The answer is a redirect, which a browser doesn't show to pages.";
      return;
    }
    const type = answer.headers.get("content-type") ?? "";
    const parts = [];
    try {
      if (/^(text\/|application\/([a-z.+-]+\+)?(json|xml))/.test(type)) await showText(answer, type, shown, parts);
      else parts.push(await answer.arrayBuffer());
    } catch {
      problem("");
      shown.append(note("The answer was cut off."));
    }
    const blob = new Blob(parts, { type });
    const url = URL.createObjectURL(blob);
    const media = { image: "img", audio: "audio", video: "video" }[type.split("/")[0]];
    if (media) {
      const element = document.createElement(media);
      element.src = url;
      if (media === "img") element.alt = "The answer";
      else element.controls = true;
      shown.append(element);
    } else if (!shown.firstChild) {
      shown.append(note(blob.size ? "The answer is a file of " + blob.size + " bytes." : "The answer is empty."));
    }
    const save = byId("save");
    Object.assign(save, { href: url, download: fileName(answer), hidden: blob.size === 0 });
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
    const rows = [["Paid", payment ? payment.text : "nothing"], ["Transaction", receipt?.transaction], ["Network", receipt?.network],
      ["Payer", receipt?.payer], ["Status", answer && String(answer.status)]];
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
    byId("form").hidden = true;
    status("You signed a payment for this page before (" + pending.text + "). It was not answered yet.");
    offerAgain(pending);
  }
})();
