"use strict";
// Solana wallets of the wallet standard: the payment of scheme `exact` is built here, since a wallet only signs.
const solanaWallets = ({ Told, hex, random, toBase64, status }) => {
  const ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  const key = (text) => {
    let number = 0n;
    for (const char of text) {
      const digit = ALPHABET.indexOf(char);
      if (digit < 0) throw new Told("An address of the terms can't be read.");
      number = number * 58n + BigInt(digit);
    }
    const bytes = new Uint8Array(32);
    for (let index = 31; index >= 0; index -= 1, number >>= 8n) bytes[index] = Number(number & 255n);
    if (number > 0n) throw new Told("An address of the terms can't be read.");
    return bytes;
  };
  const littleEndian = (number, length) =>
    Array.from({ length }, (_unused, index) => Number((BigInt(number) >> BigInt(8 * index)) & 255n));
  // Lengths as Solana writes them: seven bits a byte.
  const compact = (length) => (length < 128 ? [length] : [(length & 127) | 128, length >> 7]);
  // Whether 32 bytes are a point of ed25519 (RFC 8032 §5.1.3): a program's address never is.
  const isOnCurve = (bytes) => {
    const p = 2n ** 255n - 19n;
    const power = (base, exponent) => {
      let result = 1n;
      for (let b = base % p, e = exponent; e > 0n; e >>= 1n, b = (b * b) % p) if (e & 1n) result = (result * b) % p;
      return result;
    };
    const d = ((p - 121665n) * power(121666n, p - 2n)) % p;
    const y = bytes.reduceRight((sum, byte, index) => (sum << 8n) | BigInt(index === 31 ? byte & 127 : byte), 0n);
    const square = (y * y) % p;
    const x2 = ((square + p - 1n) * power((d * square + 1n) % p, p - 2n)) % p;
    return x2 === 0n || power(x2, (p - 1n) / 2n) === 1n;
  };
  const TOKEN_ACCOUNTS = key("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
  const COMPUTE_BUDGET = key("ComputeBudget111111111111111111111111111111");
  const MEMO = key("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr");
  // With this a wallet has the chain check what the transaction does.
  const LIGHTHOUSE = key("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95");
  const COMPUTE_UNITS = 20_000;
  const INSTRUCTIONS_MAX = 7;
  // The associated token account: the first of its candidates that nobody can hold a key of.
  const tokenAccount = async (owner, program, mint) => {
    const text = new TextEncoder().encode("ProgramDerivedAddress");
    for (let bump = 255; bump >= 0; bump -= 1) {
      const seeds = Uint8Array.from([...owner, ...program, ...mint, bump, ...TOKEN_ACCOUNTS, ...text]);
      const address = new Uint8Array(await crypto.subtle.digest("SHA-256", seeds));
      if (!isOnCurve(address)) return address;
    }
    throw new Told("The account has no token account.");
  };
  // Reads a transaction of version 0 without lookup tables; whatever else it is throws.
  const readTransaction = (bytes) => {
    let at = 0;
    const take = (length) => {
      if (at + length > bytes.length) throw new Error("cut off");
      at += length;
      return bytes.slice(at - length, at);
    };
    const length = () => {
      const [low] = take(1);
      return low < 128 ? low : (low & 127) | (take(1)[0] << 7);
    };
    const list = (item) => Array.from({ length: length() }, item);
    const signatures = list(() => take(64));
    const message = bytes.slice(at);
    if (take(1)[0] !== 0x80) throw new Error("another version");
    take(3);
    const keys = list(() => hex(take(32)));
    take(32);
    const instructions = list(() => {
      const [program] = take(1);
      return { program: keys[program], accounts: Array.from(take(length()), (index) => keys[index]), data: hex(take(length())) };
    });
    if (length() !== 0 || at !== bytes.length) throw new Error("more than a transaction");
    return { signatures, message, keys, instructions };
  };
  // Wallets may say more of fees, memos and assertions, as the gateway lets them; who pays whom how much is not theirs.
  const isAsAsked = (signed, asked) => {
    if (hex(signed.message) === hex(asked.message)) return true;
    const [limit, price, transfer, ...rest] = signed.instructions;
    const isBudget = (one, tag) => one?.program === hex(COMPUTE_BUDGET) && one.data.startsWith(tag);
    return signed.keys[0] === asked.keys[0] && isBudget(limit, "02") && isBudget(price, "03") &&
      JSON.stringify(transfer) === JSON.stringify(asked.instructions[2]) &&
      rest.length <= INSTRUCTIONS_MAX - 3 && rest.every((one) => [hex(MEMO), hex(LIGHTHOUSE)].includes(one.program));
  };
  // The transaction of scheme `exact`, with both its signatures missing.
  const unsigned = async (owner, offer, known, decimals) => {
    const [program, mint] = [key(known.tokenProgram), key(offer.asset)];
    const source = await tokenAccount(owner, program, mint);
    const destination = await tokenAccount(key(offer.payTo), program, mint);
    if (hex(source) === hex(destination)) throw new Told("This account is the one that would be paid. Choose another in the wallet.");
    const memo = new TextEncoder().encode(offer.extra.memo ?? hex(random(16)));
    // Two purchases on one blockhash must differ: by their memos, or where those are given by a limit that costs nothing.
    const [low, high] = random(2);
    const units = COMPUTE_UNITS + (offer.extra.memo === undefined ? 0 : low + 256 * high);
    // Writable signers, other signers, writable accounts, the rest.
    const keys = [key(offer.extra.feePayer), owner, source, destination, mint, program, COMPUTE_BUDGET, MEMO];
    const instruction = (at, accounts, data) => [at, accounts.length, ...accounts, ...compact(data.length), ...data];
    return Uint8Array.from([
      2, ...new Uint8Array(128),
      0x80, 2, 1, 4, keys.length, ...keys.flatMap((one) => Array.from(one)), ...key(known.blockhash), 4,
      ...instruction(6, [], [2, ...littleEndian(units, 4)]),
      ...instruction(6, [], [3, ...littleEndian(1, 8)]),
      ...instruction(5, [2, 4, 3, 1], [12, ...littleEndian(offer.amount, 8), decimals]),
      ...instruction(7, [], memo),
      0,
    ]);
  };
  const checkSigned = (signedTransaction, transaction, owner) => {
    let signed;
    try {
      signed = readTransaction(signedTransaction);
    } catch {
      throw new Told("Your wallet gave back something else than the payment. Nothing was sent and nothing was charged.");
    }
    if (!isAsAsked(signed, readTransaction(transaction))) {
      throw new Told("Your wallet changed the payment: it is not what this page asked for. Nothing was sent and nothing was charged.");
    }
    const slot = signed.signatures[signed.keys.indexOf(owner)];
    if (!slot?.some((byte) => byte !== 0)) throw new Told("Your wallet didn't sign. Nothing was sent and nothing was charged.");
  };
  return {
    kind: "solana",
    fits: (wallet, { label }) => wallet.standard.chains.includes(label.wallet.chain),
    takes: (offer, label) => offer.network.startsWith("solana:") && offer.extra?.feePayer && label.wallet.chain,
    async sign({ standard }, offer, { wallet: known, decimals }) {
      if (!crypto.subtle) throw new Told("Solana wallets can pay only on pages that came by https.");
      if (!known.blockhash || !known.tokenProgram) {
        throw new Told("The gateway doesn't know the network's newest block. Please try again in a moment.");
      }
      const until = performance.now() + 1000 * known.blockhashSecs;
      const { accounts } = await standard.features["standard:connect"].connect();
      if (accounts.length === 0) throw new Told("The wallet showed no account.");
      const account = accounts.find((one) => one.chains.includes(known.chain) && one.publicKey.length === 32);
      if (!account) {
        throw new Told("Your wallet is on another network. Choose " + known.chain + " in the wallet, then try again.");
      }
      const transaction = await unsigned(account.publicKey, offer, known, decimals);
      status("Please sign in your wallet. It shows who gets how much.");
      const [{ signedTransaction }] = await standard.features["solana:signTransaction"]
        .signTransaction({ account, chain: known.chain, transaction });
      checkSigned(signedTransaction, transaction, hex(account.publicKey));
      // Without the fee payer's signature it is worth nothing, so one that is not presented is as good as not signed.
      if (performance.now() > until) {
        throw new Told("Signing took longer than the network allows. Nothing was sent and nothing was charged: please try again.");
      }
      return { transaction: toBase64(signedTransaction) };
    },
  };
};
