// Pays one request with npm @x402/fetch 2.27.0 and prints one JSON line about what happened.
//
//   [PAYER_KEY=0x… [PAYER_WALLET=0x…]] [PAYER_SOLANA_KEY=… SOLANA_RPC_URL=…] node fetch_v2.mjs URL [--v1] [--header 'Name: value']…
//
// --v1 also registers the v1 schemes and hides the PAYMENT-REQUIRED header from the client, which would otherwise win:
// the client then pays by the v1 terms in the body, as it does at a shop that speaks v1 only.
// The spend controls stay at their defaults, so the terms must name the network's real default asset.
import { createRequire } from 'node:module';
import { hasEvmKey, parseCommand, payerAccount, printReport, solanaPayer } from './payer.mjs';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { wrapFetchWithPayment, x402Client } = require('@x402/fetch');
const { ExactEvmScheme } = require('@x402/evm');
const { ExactEvmSchemeV1 } = require('@x402/evm/v1');
const { ExactSvmScheme } = require('@x402/svm/exact/client');
const { ExactSvmSchemeV1 } = require('@x402/svm/v1');
const { createKeyPairSignerFromBytes, getBase58Encoder } = require('@solana/kit');

const command = parseCommand();
const client = new x402Client();
if (hasEvmKey()) {
  const signer = payerAccount(require('viem/accounts'));
  client.register('eip155:*', new ExactEvmScheme(signer));
  if (command.v1) client.registerV1('base-sepolia', new ExactEvmSchemeV1(signer));
}
const solana = solanaPayer();
if (solana !== null) {
  const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(solana.key));
  client.register('solana:*', new ExactSvmScheme(signer, solana.config));
  if (command.v1) client.registerV1('solana-devnet', new ExactSvmSchemeV1(signer, solana.config));
}

const sent = [];
let offer = null;
async function recordingFetch(request) {
  sent.push(Object.fromEntries(request.headers));
  const answer = await fetch(request);
  if (!command.v1) {
    offer ??= answer.headers.get('PAYMENT-REQUIRED');
    return answer;
  }
  const headers = new Headers(answer.headers);
  headers.delete('PAYMENT-REQUIRED');
  return new Response(answer.body, { status: answer.status, headers });
}

const answer = await wrapFetchWithPayment(recordingFetch, client)(command.url, { headers: command.headers });
printReport({
  status: answer.status,
  body: await answer.text(),
  headers: Object.fromEntries(answer.headers),
  sent,
  offer,
});
