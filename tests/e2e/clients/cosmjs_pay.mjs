// Pays one request with a transaction that @cosmjs 0.39.0 signs, and prints one JSON line about what happened. No x402
// client for Cosmos exists in any registry: the wallet is the real one, the few lines of x402 are here.
//
//   PAYER_COSMOS='{"key":"…hex","prefix":"noble",…}' node cosmjs_pay.mjs URL [--amino] [--header 'Name: value']…
//
// PAYER_COSMOS is what cosmjs_sign.mjs is told, but for the offer's part.
import { parseArgs } from 'node:util';
import { sign } from './cosmjs_sign.mjs';
import { printReport } from './payer.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { amino: { type: 'boolean', default: false }, header: { type: 'string', multiple: true, default: [] } },
});
const headers = Object.fromEntries(values.header.map((line) => line.split(/:\s*(.*)/s, 2)));
const [url] = positionals;
const payer = JSON.parse(process.env.PAYER_COSMOS);

const unpaid = await fetch(url, { headers });
const offer = unpaid.headers.get('PAYMENT-REQUIRED');
const terms = JSON.parse(Buffer.from(offer, 'base64').toString('utf8'));
const accepted = terms.accepts.find(({ network }) => network === `cosmos:${payer.chainId}`);
const { transaction } = await sign({
  ...payer,
  mode: values.amino ? 'amino' : 'direct',
  to: accepted.payTo,
  denom: accepted.asset,
  amount: accepted.amount,
  memo: accepted.extra?.memo ?? '',
});
const payment = { x402Version: 2, resource: terms.resource, accepted, payload: { transaction } };
const sent = { ...headers, 'payment-signature': Buffer.from(JSON.stringify(payment)).toString('base64') };
const answer = await fetch(url, { headers: sent });
printReport({
  status: answer.status,
  body: await answer.text(),
  headers: Object.fromEntries(answer.headers),
  sent: [sent],
  offer,
});
