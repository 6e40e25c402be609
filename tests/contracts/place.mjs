// Makes a local node into a shop's testnet: puts TestUSDC where Base Sepolia has its USDC, and gives a payer some of it.
//
//   node tests/contracts/place.mjs [RPC_URL] [PAYER] [ATOMIC_UNITS]
//
// Only for a development node such as anvil: no other one lets code be placed. Wants nothing but node.
import { readFileSync } from 'node:fs';

const USDC = '0x036CbD53842c5426634e7929541eC2318f3dCF7e';
// Account 1 of anvil's published development mnemonic.
const DEVELOPMENT_PAYER = '0x70997970C51812dc3A010C7d01b50e0d17dc79C8';
const SELECTOR_MINT = '40c10f19';
const START_TIMEOUT_MILLIS = 10_000;
const RECEIPT_TIMEOUT_MILLIS = 30_000;

const [url = 'http://127.0.0.1:8545', payer = DEVELOPMENT_PAYER, units = '1000000'] = process.argv.slice(2);

async function rpc(method, ...params) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
  });
  const answer = await response.json();
  if (answer.error) {
    throw new Error(`the node refused ${method}: ${answer.error.message}`);
  }
  return answer.result;
}

const pause = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

// A node that was only just started takes a moment to listen.
async function waitForNode() {
  const deadline = Date.now() + START_TIMEOUT_MILLIS;
  for (;;) {
    try {
      return await rpc('eth_chainId');
    } catch (error) {
      if (Date.now() > deadline) {
        throw new Error(`no node answers at ${url}`, { cause: error });
      }
      await pause(100);
    }
  }
}

const word = (hex) => hex.replace(/^0x/, '').toLowerCase().padStart(64, '0');

async function waitForReceipt(transaction) {
  const deadline = Date.now() + RECEIPT_TIMEOUT_MILLIS;
  for (;;) {
    const receipt = await rpc('eth_getTransactionReceipt', transaction);
    if (receipt) {
      return receipt;
    }
    if (Date.now() > deadline) {
      throw new Error('the mint was never mined');
    }
    await pause(50);
  }
}

if (!/^0x[0-9a-fA-F]{40}$/.test(payer) || !/^[0-9]+$/.test(units)) {
  throw new Error('expected [RPC_URL] [PAYER as 0x and 40 hex digits] [ATOMIC_UNITS as a whole number]');
}
const artifact = JSON.parse(readFileSync(new URL('artifacts/TestUSDC.json', import.meta.url), 'utf8'));
await waitForNode();
await rpc('anvil_setCode', USDC, artifact.deployedBytecode);
const accounts = await rpc('eth_accounts');
// Neither of the first two: they are gas payer and payer, and their account nonces are theirs.
const from = accounts[2] ?? accounts[0];
const data = `0x${SELECTOR_MINT}${word(payer)}${word(BigInt(units).toString(16))}`;
const receipt = await waitForReceipt(await rpc('eth_sendTransaction', { from, to: USDC, data }));
if (receipt.status !== '0x1') {
  throw new Error('the mint failed');
}
console.log(`${payer} has ${units} more atomic units of USDC at ${USDC}`);
