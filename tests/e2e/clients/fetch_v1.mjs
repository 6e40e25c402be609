// Pays one request with npm x402-fetch 1.2.0, the JavaScript client that knows v1 only, and prints one JSON line about
// what happened.
//
//   PAYER_KEY=0x… [PAYER_WALLET=0x…] node fetch_v1.mjs URL [--header 'Name: value']…
//   PAYER_SOLANA_KEY=… SOLANA_RPC_URL=… node fetch_v1.mjs URL [--header 'Name: value']…
import { createRequire } from 'node:module';
import { parseCommand, payerAccount, printReport, solanaPayer } from './payer.mjs';

const require = createRequire(new URL('../node-x402-fetch/package.json', import.meta.url));
const command = parseCommand();
const { createSigner, wrapFetchWithPayment } = require('x402-fetch');
const solana = solanaPayer();
const signer =
  solana === null ? payerAccount(require('viem/accounts')) : await createSigner('solana-devnet', solana.key);
const config = solana === null ? undefined : { svmConfig: solana.config };

const sent = [];
function recordingFetch(url, init) {
  const request = new Request(url, init);
  sent.push(Object.fromEntries(request.headers));
  return fetch(request);
}

const pay = wrapFetchWithPayment(recordingFetch, signer, undefined, undefined, config);
const answer = await pay(command.url, { headers: command.headers });
printReport({
  status: answer.status,
  body: await answer.text(),
  headers: Object.fromEntries(answer.headers),
  sent,
  offer: null,
});
