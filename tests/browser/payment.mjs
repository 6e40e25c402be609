// The 402 that a person sees: from a click to the content, with a wallet of the test in the page.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { privateKeyToAccount } from 'viem/accounts';
import { barriers, eachLook, overflow, shoot, spilled, WIDTHS } from './lib/browser.mjs';

const PRICED = '/weather';
const CHAIN = 84532;
const WAIT_MILLIS = 30_000;

/** A page with a wallet in it, which does what `wallet` says: `chain` it is on, `refuses` to sign, `knows` the page's chain. */
async function open(browser, shop, target, wallet) {
  const account = privateKeyToAccount(readFileSync(path.join(shop.devFolder, 'payer.key'), 'utf8').trim());
  const context = await browser.newContext({ viewport: WIDTHS.desk, reducedMotion: 'reduce' });
  const page = await context.newPage();
  const complaints = [];
  // A fetch that is answered with an error status is a line of the console that no page can prevent.
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type()) && !message.text().startsWith('Failed to load resource')) {
      complaints.push(`${message.type()}: ${message.text()}`);
    }
  });
  page.on('pageerror', (error) => complaints.push(`exception: ${error.stack ?? error}`));
  const asked = [];
  await page.exposeFunction('askWallet', async (method, params) => {
    asked.push(method);
    const refusal = (code, message) => ({ error: { code, message } });
    switch (method) {
      case 'eth_requestAccounts': return { result: [account.address] };
      case 'eth_chainId': return { result: `0x${wallet.chain.toString(16)}` };
      case 'wallet_switchEthereumChain':
        if (!wallet.knows) return refusal(4902, 'Unrecognized chain');
        wallet.chain = Number(params[0].chainId);
        return { result: null };
      case 'eth_signTypedData_v4': {
        if (wallet.refuses) return refusal(4001, 'User rejected the request.');
        const { domain, types: { EIP712Domain: _domain, ...types }, primaryType, message } = JSON.parse(params[1]);
        return { result: await account.signTypedData({ domain, types, primaryType, message }) };
      }
      default: return refusal(-32601, method);
    }
  });
  if (wallet.chain) {
    await page.addInitScript(() => {
      const provider = {
        async request({ method, params }) {
          const { result, error } = await window.askWallet(method, params);
          if (error) throw Object.assign(new Error(error.message), error);
          return result;
        },
      };
      const info = { uuid: '350670db-19fa-4704-a166-e52e178b59d2', name: 'Test Wallet', rdns: 'test.wallet',
        icon: 'data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>' };
      const announce = () => dispatchEvent(new CustomEvent('eip6963:announceProvider', { detail: Object.freeze({ info, provider }) }));
      addEventListener('eip6963:requestProvider', announce);
      announce();
    });
  }
  await page.goto(`http://127.0.0.1:${shop.port}${target}`);
  return { page, complaints, asked, account, close: () => context.close() };
}

const told = (page) => page.locator('#problem').textContent();
const stored = (page) => page.evaluate(() => Object.keys(localStorage).length);
const newest = async (shop) => (await shop.export())[0];

async function pays(page) {
  await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
  await page.locator('#result').waitFor({ state: 'visible', timeout: WAIT_MILLIS });
}

async function looks(page, pictures, name) {
  await eachLook(page, async (look) => {
    assert.deepEqual(await barriers(page), [], `${name} ${look}`);
    assert.deepEqual(await overflow(page), [], `${name} ${look}`);
    assert.deepEqual(await spilled(page), [], `${name} ${look}`);
    await shoot(page, pictures, `payment-${name}-${look}`);
  });
}

export async function payment(browser, shop, pictures, step) {
  await step('without JavaScript the 402 is plain terms', async () => {
    const context = await browser.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    const answer = await page.goto(`http://127.0.0.1:${shop.port}${PRICED}`);
    assert.equal(answer.status(), 402);
    const text = await page.locator('body').innerText();
    for (const word of ['USDC', 'base-sepolia', `tollhouse pay 'http://127.0.0.1:${shop.port}${PRICED}'`, '0x']) {
      assert.ok(text.includes(word), `${word} is not in ${text}`);
    }
    assert.equal(await page.locator('#pay').isVisible(), false);
    await context.close();
  });

  await step('a browser without a wallet is told so', async () => {
    const { page, complaints, close } = await open(browser, shop, PRICED, {});
    await page.locator('#no-wallet').waitFor({ state: 'visible' });
    assert.equal(await page.getByRole('button').count(), 0);
    await looks(page, pictures, 'no-wallet');
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('from a click to the content, and the receipt is the books\' own', async () => {
    const { page, complaints, account, close } = await open(browser, shop, PRICED, { chain: CHAIN });
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).waitFor();
    await looks(page, pictures, 'ready');
    await pays(page);
    const receipt = await page.locator('#receipt').innerText();
    const row = await newest(shop);
    assert.equal(row.state, 'served');
    assert.equal(row.payer.toLowerCase(), account.address.toLowerCase());
    for (const word of [row.transaction, 'USDC', account.address]) {
      assert.ok(receipt.toLowerCase().includes(word.toLowerCase()), `${word} is not in ${receipt}`);
    }
    JSON.parse(await page.locator('#answer pre').textContent());
    const [file] = await Promise.all([page.waitForEvent('download'), page.locator('#save').click()]);
    JSON.parse(readFileSync(await file.path(), 'utf8'));
    assert.equal(await stored(page), 0);
    await looks(page, pictures, 'paid');
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a wallet on another network is asked to switch, and one that can\'t is told of', async () => {
    const before = (await shop.export()).length;
    const wallet = { chain: 1, knows: false };
    const { page, asked, complaints, close } = await open(browser, shop, PRICED, wallet);
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
    await page.waitForFunction(() => document.querySelector('#problem').textContent !== '');
    assert.match(await told(page), /another network.*84532/);
    assert.ok(!asked.includes('eth_signTypedData_v4'));
    assert.equal((await shop.export()).length, before);
    await looks(page, pictures, 'wrong-network');
    wallet.knows = true;
    await pays(page);
    assert.equal(wallet.chain, CHAIN);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a refused signature costs nothing and may be given after all', async () => {
    const before = (await shop.export()).length;
    const wallet = { chain: CHAIN, refuses: true };
    const { page, complaints, close } = await open(browser, shop, PRICED, wallet);
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
    await page.waitForFunction(() => document.querySelector('#problem').textContent !== '');
    assert.match(await told(page), /Nothing was signed and nothing was charged/);
    assert.equal((await shop.export()).length, before);
    assert.equal(await stored(page), 0);
    await looks(page, pictures, 'refused');
    wallet.refuses = false;
    await pays(page);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a payment whose answer is lost is presented again, after a reload too, and charged once', async () => {
    const before = (await shop.export()).length;
    const wallet = { chain: CHAIN };
    const { page, asked, complaints, close } = await open(browser, shop, PRICED, wallet);
    const isPaid = (request) => request.headers()['payment-signature'] !== undefined;
    // It never gets to the gateway: the page can't know that.
    await page.route('**/*', (route) => (isPaid(route.request()) ? route.abort('connectionreset') : route.continue()));
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
    await page.waitForFunction(() => document.querySelector('#status').textContent.includes('presented again'));
    assert.equal(await stored(page), 1);
    await page.reload();
    const again = page.getByRole('button', { name: 'Present the same payment again' });
    await again.waitFor();
    await looks(page, pictures, 'kept');
    await page.unroute('**/*');
    await again.click();
    await page.locator('#result').waitFor({ state: 'visible', timeout: WAIT_MILLIS });
    assert.equal(asked.filter((method) => method === 'eth_signTypedData_v4').length, 1);
    assert.equal((await shop.export()).length, before + 1);
    assert.equal(await stored(page), 0);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('an origin that fails after the payment leaves it to be presented again, and nothing else to be paid', async () => {
    const before = (await shop.export()).length;
    const { page, asked, complaints, close } = await open(browser, shop, '/flaky?fail=1', { chain: CHAIN });
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
    await page.getByRole('button', { name: 'Present the same payment again' }).waitFor();
    assert.match(await told(page), /You paid, but the server behind the gateway failed/);
    assert.equal(await page.getByRole('button', { name: 'Pay with Test Wallet' }).isVisible(), false);
    assert.equal(await stored(page), 1);
    await looks(page, pictures, 'failed');
    // Twice the origin is asked; then the money is owed, and the page says so.
    for (let tries = 0; tries < 3 && !/is owed to you/.test(await told(page)); tries += 1) {
      await page.getByRole('button', { name: 'Present the same payment again' }).click();
      await page.waitForFunction(() => document.querySelector('#problem').textContent !== '');
    }
    assert.match(await told(page), /is owed to you/);
    assert.equal(asked.filter((method) => method === 'eth_signTypedData_v4').length, 1);
    assert.equal((await shop.export()).length, before + 1);
    assert.equal((await newest(shop)).state, 'owed');
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a settlement that takes long is waited for', async () => {
    const { page, asked, complaints, close } = await open(browser, shop, PRICED, { chain: CHAIN });
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).waitFor();
    shop.rpc.cut();
    await page.getByRole('button', { name: 'Pay with Test Wallet' }).click();
    await page.waitForFunction(() => /presented again|settled|have changed/.test(
      document.querySelector('#status').textContent + document.querySelector('#problem').textContent), null, { timeout: WAIT_MILLIS });
    shop.rpc.mend();
    if (await page.locator('#problem').textContent()) {
      // The gateway knew of its chain before the click: nothing was signed.
      assert.equal(await stored(page), 0);
    } else {
      await page.locator('#result').waitFor({ state: 'visible', timeout: 2 * WAIT_MILLIS });
      assert.equal(asked.filter((method) => method === 'eth_signTypedData_v4').length, 1);
    }
    assert.deepEqual(complaints, []);
    await close();
  });
}
