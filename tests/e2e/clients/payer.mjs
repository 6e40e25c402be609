// What the npm clients share: the command line, who pays, and the one JSON line about what happened.
import { parseArgs } from 'node:util';

// Node 18, which Debian 12 carries, has it but doesn't make it global; the clients' nonces come from it.
globalThis.crypto ??= (await import('node:crypto')).webcrypto;

/** The URL, whether to pay by the v1 terms, and extra request headers. */
export function parseCommand() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { v1: { type: 'boolean', default: false }, header: { type: 'string', multiple: true, default: [] } },
  });
  const headers = Object.fromEntries(values.header.map((line) => line.split(/:\s*(.*)/s, 2)));
  return { url: positionals[0], v1: values.v1, headers };
}

/** Base58 of PAYER_SOLANA_KEY, and the node to ask for a recent block; nothing if this payer has no money on Solana. */
export function solanaPayer() {
  const key = process.env.PAYER_SOLANA_KEY;
  return key === undefined ? null : { key, config: { rpcUrl: process.env.SOLANA_RPC_URL } };
}

/** Whether this payer has money on an EVM chain. */
export function hasEvmKey() {
  return process.env.PAYER_KEY !== undefined;
}

/** The account of PAYER_KEY, or the contract at PAYER_WALLET with that account as the owner who signs for it. */
export function payerAccount({ privateKeyToAccount, toAccount }) {
  const owner = privateKeyToAccount(process.env.PAYER_KEY);
  const wallet = process.env.PAYER_WALLET;
  if (wallet === undefined) return owner;
  const { sign, signMessage, signTransaction, signTypedData } = owner;
  return toAccount({ address: wallet, sign, signMessage, signTransaction, signTypedData });
}

function decode(header) {
  return header == null ? null : JSON.parse(Buffer.from(header, 'base64').toString('utf8'));
}

/**
 * `headers`: of the last answer, by lower-case name. `sent`: the headers of each request that went out, likewise.
 * `offer`: the PAYMENT-REQUIRED header that the client was shown, if any.
 */
export function printReport({ status, body, headers, sent, offer }) {
  const last = sent.at(-1);
  const name = ['payment-signature', 'x-payment'].find((candidate) => candidate in last);
  console.log(
    JSON.stringify({
      status,
      body,
      headers,
      paymentResponse: decode(headers['payment-response']),
      xPaymentResponse: decode(headers['x-payment-response']),
      paymentHeader: name === undefined ? null : { name, value: last[name] },
      offer: decode(offer),
    }),
  );
}
