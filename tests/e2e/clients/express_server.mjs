// A resource server behind the npm @x402/express 2.27.0 middleware, which has its payments verified and settled by a
// facilitator. Prints one line once it listens.
//
//   PORT=… FACILITATOR=http://127.0.0.1:… PAY_TO=0x… node express_server.mjs
import { createRequire } from 'node:module';

// Node 18, which Debian 12 carries, has it but doesn't make it global.
globalThis.crypto ??= (await import('node:crypto')).webcrypto;

const require = createRequire(new URL('../node-x402-express/package.json', import.meta.url));
const express = require('express');
const { HTTPFacilitatorClient } = require('@x402/core/server');
const { ExactEvmScheme } = require('@x402/evm/exact/server');
const { paymentMiddleware, x402ResourceServer } = require('@x402/express');

const { PORT, FACILITATOR, PAY_TO } = process.env;
const facilitator = new HTTPFacilitatorClient({ url: FACILITATOR });
const server = new x402ResourceServer(facilitator).register('eip155:84532', new ExactEvmScheme());
const accepts = { scheme: 'exact', price: '$0.01', network: 'eip155:84532', payTo: PAY_TO };

const app = express();
let answered = 0;
app.get('/answered', (_request, response) => response.json({ answered }));
app.use(paymentMiddleware({ 'GET /report': { accepts } }, server));
app.get('/report', (_request, response) => {
  answered += 1;
  response.json({ express: true });
});
app.listen(Number(PORT), '127.0.0.1', () => console.log('listening'));
