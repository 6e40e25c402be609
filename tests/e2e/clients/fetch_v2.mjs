// Pays one request with npm @x402/fetch 2.27.0 and prints one JSON line about what happened.
//
//   PAYER_KEY=0x… node fetch_v2.mjs URL [--v1] [--header 'Name: value']…
//
// --v1 also registers the v1 schemes and hides the PAYMENT-REQUIRED header from the client, which would otherwise win:
// the client then pays by the v1 terms in the body, as it does at a shop that speaks v1 only.
// The spend controls stay at their defaults, so the terms must name the network's real default asset.
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { wrapFetchWithPayment, x402Client } = require('@x402/fetch');
const { ExactEvmScheme } = require('@x402/evm');
const { ExactEvmSchemeV1 } = require('@x402/evm/v1');
const { privateKeyToAccount } = require('viem/accounts');

// Node 18, which Debian 12 carries, has it but doesn't make it global; the client's nonces come from it.
globalThis.crypto ??= require('node:crypto').webcrypto;

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { v1: { type: 'boolean', default: false }, header: { type: 'string', multiple: true, default: [] } },
});
const [url] = positionals;

const signer = privateKeyToAccount(process.env.PAYER_KEY);
const client = new x402Client().register('eip155:*', new ExactEvmScheme(signer));
if (flags.v1) client.registerV1('base-sepolia', new ExactEvmSchemeV1(signer));

const sent = [];
async function recordingFetch(request) {
  sent.push(Object.fromEntries(request.headers));
  const answer = await fetch(request);
  if (!flags.v1) return answer;
  const headers = new Headers(answer.headers);
  headers.delete('PAYMENT-REQUIRED');
  return new Response(answer.body, { status: answer.status, headers });
}

function decode(header) {
  return header === null ? null : JSON.parse(Buffer.from(header, 'base64').toString('utf8'));
}

const headers = flags.header.map((line) => line.split(/:\s*(.*)/s, 2));
const answer = await wrapFetchWithPayment(recordingFetch, client)(url, { headers });
const last = sent.at(-1);
const name = ['payment-signature', 'x-payment'].find((candidate) => candidate in last);
console.log(
  JSON.stringify({
    status: answer.status,
    body: await answer.text(),
    headers: Object.fromEntries(answer.headers),
    paymentResponse: decode(answer.headers.get('PAYMENT-RESPONSE')),
    xPaymentResponse: decode(answer.headers.get('X-PAYMENT-RESPONSE')),
    paymentHeader: name === undefined ? null : { name, value: last[name] },
  }),
);
