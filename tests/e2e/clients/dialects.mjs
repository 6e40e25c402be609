// Pays one request with what an official wallet signs, written down in the v1 or the vitwit form, and prints one JSON line
// about what happened. No official client speaks vitwit, and none speaks v1 on Cosmos: signing is theirs, the form is here.
//
//   [PAYER_KEY=0x…] [PAYER_SOLANA_KEY=… SOLANA_RPC_URL=…] [PAYER_COSMOS='{…}'] node dialects.mjs URL --as v1|vitwit [--header 'Name: value']…
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';
import { sign } from './cosmjs_sign.mjs';
import { hasEvmKey, payerAccount, printReport, solanaPayer } from './payer.mjs';

const require = createRequire(new URL('../node/package.json', import.meta.url));
const { x402Client } = require('@x402/fetch');
const { ExactEvmScheme } = require('@x402/evm');
const { ExactSvmScheme } = require('@x402/svm/exact/client');
const { createKeyPairSignerFromBytes, getBase58Encoder } = require('@solana/kit');

// What v1 calls the networks that have a name there, and vitwit those of Cosmos.
const NAMES = {
  'eip155:84532': 'base-sepolia',
  'solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1': 'solana-devnet',
  'cosmos:grand-1': 'grand-1',
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { as: { type: 'string' }, header: { type: 'string', multiple: true, default: [] } },
});
const headers = Object.fromEntries(values.header.map((line) => line.split(/:\s*(.*)/s, 2)));
const [url] = positionals;

async function onCosmos(terms, payer) {
  const accepted = terms.accepts.find(({ network }) => network === `cosmos:${payer.chainId}`);
  const { payTo: to, asset: denom, amount } = accepted;
  return { accepted, payload: await sign({ ...payer, mode: 'direct', to, denom, amount, memo: '' }) };
}

async function onEvmOrSolana(terms) {
  const client = new x402Client();
  if (hasEvmKey()) client.register('eip155:*', new ExactEvmScheme(payerAccount(require('viem/accounts'))));
  const solana = solanaPayer();
  if (solana !== null) {
    const signer = await createKeyPairSignerFromBytes(getBase58Encoder().encode(solana.key));
    client.register('solana:*', new ExactSvmScheme(signer, solana.config));
  }
  return client.createPaymentPayload(terms);
}

const base64 = (text) => Buffer.from(text).toString('base64');

const unpaid = await fetch(url, { headers });
const offer = unpaid.headers.get('PAYMENT-REQUIRED');
const terms = JSON.parse(Buffer.from(offer, 'base64').toString('utf8'));
const cosmos = process.env.PAYER_COSMOS;
const signed = cosmos === undefined ? await onEvmOrSolana(terms) : await onCosmos(terms, JSON.parse(cosmos));
const { scheme, network } = signed.accepted;
// The seed document's form on Cosmos is the transaction itself in base64; elsewhere the string holds the object.
const wrapped = cosmos === undefined ? base64(JSON.stringify(signed.payload)) : signed.payload.transaction;
const payload = values.as === 'vitwit' ? wrapped : signed.payload;
const payment = { x402Version: 1, scheme, network: NAMES[network], payload };
const sent = { ...headers, 'x-payment': base64(JSON.stringify(payment)) };
const answer = await fetch(url, { headers: sent });
printReport({
  status: answer.status,
  body: await answer.text(),
  headers: Object.fromEntries(answer.headers),
  sent: [sent],
  offer,
});
