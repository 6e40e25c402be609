// Pays one request with npm @x402/axios 2.11.0 and prints one JSON line about what happened.
//
//   PAYER_KEY=0x… [PAYER_WALLET=0x…] node axios_v2.mjs URL [--v1] [--header 'Name: value']…
//
// --v1 means what it means for fetch_v2.mjs.
import { createRequire } from 'node:module';
import { parseCommand, payerAccount, printReport } from './payer.mjs';

const require = createRequire(new URL('../node-x402-axios/package.json', import.meta.url));
const axios = require('axios');
const { wrapAxiosWithPayment, x402Client } = require('@x402/axios');
const { ExactEvmScheme } = require('@x402/evm');
const { ExactEvmSchemeV1 } = require('@x402/evm/v1');

const command = parseCommand();
const signer = payerAccount(require('viem/accounts'));
const client = new x402Client().register('eip155:*', new ExactEvmScheme(signer));
if (command.v1) client.registerV1('base-sepolia', new ExactEvmSchemeV1(signer));

function lowerCaseNames(headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}

const sent = [];
let offer = null;
const session = axios.create();
session.interceptors.request.use((request) => {
  sent.push(lowerCaseNames(request.headers.toJSON()));
  return request;
});
// Before the client's own interceptor, so that it sees what this one leaves.
session.interceptors.response.use(undefined, (error) => {
  const headers = error.response?.headers;
  if (command.v1) headers?.delete('payment-required');
  else offer ??= headers?.get('payment-required');
  return Promise.reject(error);
});

const answer = await wrapAxiosWithPayment(session, client).get(command.url, {
  headers: command.headers,
  validateStatus: (status) => status !== 402,
});
printReport({
  status: answer.status,
  // axios has parsed it if it is JSON.
  body: typeof answer.data === 'string' ? answer.data : JSON.stringify(answer.data),
  headers: lowerCaseNames(answer.headers.toJSON()),
  sent,
  offer,
});
