// Pays one request with npm x402-fetch 1.2.0, the JavaScript client that knows v1 only, and prints one JSON line about
// what happened.
//
//   PAYER_KEY=0x… [PAYER_WALLET=0x…] node fetch_v1.mjs URL [--header 'Name: value']…
import { createRequire } from 'node:module';
import { parseCommand, payerAccount, printReport } from './payer.mjs';

const require = createRequire(new URL('../node-x402-fetch/package.json', import.meta.url));
const command = parseCommand();
const signer = payerAccount(require('viem/accounts'));
const { wrapFetchWithPayment } = require('x402-fetch');

const sent = [];
function recordingFetch(url, init) {
  const request = new Request(url, init);
  sent.push(Object.fromEntries(request.headers));
  return fetch(request);
}

const answer = await wrapFetchWithPayment(recordingFetch, signer)(command.url, { headers: command.headers });
printReport({
  status: answer.status,
  body: await answer.text(),
  headers: Object.fromEntries(answer.headers),
  sent,
  offer: null,
});
