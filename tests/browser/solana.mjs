// The 402 that a person sees, paid by a Solana wallet: from a click to the content, and what must not come of it.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { barriers, eachLook, overflow, shoot, spilled, WIDTHS } from './lib/browser.mjs';
import { announce, AT, Keypair, signed, tokenAccount, unbase58, withMemo } from './lib/solana.mjs';

const PRICED = '/weather';
const WAIT_MILLIS = 120_000;
const TOKEN = 'TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA';
const TOKEN_2022 = 'TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb';
const MINT = '4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU';
/** Owners whose token accounts the page must find: every second one has another bump than the first. */
const OWNERS = 16;

/** A page with a Solana wallet in it, and that network chosen. */
async function open(browser, shop, target, wallet, host = '127.0.0.1') {
  wallet.keypair ??= Keypair.read(path.join(shop.devFolder, 'solana-payer.json'));
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
  const presented = [];
  page.on('request', (request) => {
    const header = request.headers()['payment-signature'];
    if (header) presented.push(header);
    if (!request.url().startsWith(`http://${host}:${shop.port}/`) && !/^(data|blob):/.test(request.url())) complaints.push(`asked ${request.url()}`);
  });
  await announce(page, wallet);
  await page.goto(`http://${host}:${shop.port}${target}`);
  await page.getByRole('radio', { name: /solana-devnet/ }).check();
  const click = () => page.getByRole('button', { name: 'Pay with Test Solana Wallet' }).click();
  return { page, complaints, presented, click, close: () => context.close() };
}

const told = (page) => page.locator('#problem').textContent();
const stored = (page) => page.evaluate(() => Object.keys(localStorage).length);
const signatures = (wallet) => wallet.asked.filter((method) => method === 'sign').length;
const result = (page) => page.locator('#result').waitFor({ state: 'visible', timeout: WAIT_MILLIS });
const problem = (page) => page.waitForFunction(() => document.querySelector('#problem').textContent !== '', null, { timeout: WAIT_MILLIS });

async function looks(page, pictures, name) {
  await eachLook(page, async (look) => {
    assert.deepEqual(await barriers(page), [], `${name} ${look}`);
    assert.deepEqual(await overflow(page), [], `${name} ${look}`);
    assert.deepEqual(await spilled(page), [], `${name} ${look}`);
    await shoot(page, pictures, `payment-solana-${name}-${look}`);
  });
}

export async function solana(browser, shop, pictures, step) {
  // All of the books are ten thousand payments by now.
  const since = new Date().toISOString();
  const books = () => shop.export('--since', since);

  await step('a Solana wallet pays, from a click to the content', async () => {
    const wallet = {};
    const { page, complaints, click, close } = await open(browser, shop, PRICED, wallet);
    await looks(page, pictures, 'ready');
    await click();
    await result(page);
    const receipt = await page.locator('#receipt').innerText();
    const row = (await books())[0];
    assert.equal(row.state, 'served');
    assert.equal(row.payer, wallet.keypair.address);
    for (const word of [row.transaction, 'USDC', 'solana', wallet.keypair.address]) assert.ok(receipt.includes(word), `${word} is not in ${receipt}`);
    const [status] = (await shop.askSolana('getSignatureStatuses', [[row.transaction]])).value;
    assert.equal(status.err, null);
    JSON.parse(await page.locator('#answer pre').textContent());
    assert.equal(await stored(page), 0);
    assert.equal(signatures(wallet), 1);
    await looks(page, pictures, 'paid');
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('the page finds the token accounts of owners, whatever their bump', async () => {
    const wallet = { refuses: true };
    const { page, complaints, click, close } = await open(browser, shop, PRICED, wallet);
    const bumps = new Set();
    for (let index = 0; index < OWNERS; index += 1) {
      wallet.keypair = new Keypair();
      await click();
      await page.waitForFunction(() => document.querySelector('#problem').textContent !== '');
      const transaction = wallet.transactions.at(-1);
      const keyAt = (place) => transaction.subarray(AT.keys + 32 * place, AT.keys + 32 * (place + 1));
      const { address, bump } = tokenAccount(wallet.keypair.publicKey, unbase58(TOKEN), unbase58(MINT));
      assert.deepEqual(keyAt(1), wallet.keypair.publicKey);
      assert.deepEqual(keyAt(2), address, `${wallet.keypair.address}, bump ${bump}`);
      bumps.add(bump);
    }
    assert.ok(bumps.size > 1);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a token of the newer program has its own accounts', async () => {
    const wallet = { refuses: true };
    const { page, complaints, click, close } = await open(browser, shop, PRICED, wallet);
    await page.route('**/weather', async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: (await answer.text()).replaceAll(TOKEN, TOKEN_2022) });
    });
    await click();
    await problem(page);
    const [transaction] = wallet.transactions;
    const keyAt = (place) => transaction.subarray(AT.keys + 32 * place, AT.keys + 32 * (place + 1));
    const { address } = tokenAccount(wallet.keypair.publicKey, unbase58(TOKEN_2022), unbase58(MINT));
    assert.deepEqual([keyAt(2), keyAt(5)], [address, unbase58(TOKEN_2022)]);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('two purchases in a row with the memo of the route are two payments', async () => {
    const before = (await books()).length;
    const wallet = {};
    for (let times = 0; times < 2; times += 1) {
      const { page, complaints, click, close } = await open(browser, shop, '/file', wallet);
      await click();
      await result(page);
      await page.locator('#save').waitFor({ state: 'visible' });
      assert.match(await page.locator('#answer').textContent(), /file of 10485760 bytes/);
      assert.ok(wallet.transactions[0].includes('the file'));
      assert.deepEqual(complaints, []);
      await close();
    }
    assert.equal((await books()).length, before + 2);
  });

  await step('a Solana wallet is shown for its networks only', async () => {
    const { page, complaints, close } = await open(browser, shop, PRICED, { knows: ['solana:mainnet'] });
    await page.locator('#no-wallet').waitFor({ state: 'visible' });
    assert.equal(await page.getByRole('button').count(), 0);
    await page.getByRole('radio', { name: /base-sepolia/ }).check();
    assert.equal(await page.getByRole('button').count(), 0);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a Solana account of another network is told of, and nothing is asked to be signed', async () => {
    const before = (await books()).length;
    const wallet = { chains: ['solana:mainnet'] };
    const { page, complaints, presented, click, close } = await open(browser, shop, PRICED, wallet);
    await click();
    await problem(page);
    assert.match(await told(page), /another network. Choose solana:devnet/);
    assert.deepEqual([signatures(wallet), presented.length], [0, 0]);
    await looks(page, pictures, 'wrong-network');
    wallet.chains = ['solana:devnet'];
    await click();
    await result(page);
    assert.equal((await books()).length, before + 1);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a refused Solana signature costs nothing and may be given after all', async () => {
    const before = (await books()).length;
    const wallet = { refuses: true };
    const { page, complaints, presented, click, close } = await open(browser, shop, PRICED, wallet);
    await click();
    await problem(page);
    assert.match(await told(page), /Nothing was signed and nothing was charged/);
    assert.deepEqual([presented.length, await stored(page), (await books()).length], [0, 0, before]);
    await looks(page, pictures, 'refused');
    wallet.refuses = false;
    await click();
    await result(page);
    assert.equal((await books()).length, before + 1);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('what a Solana wallet changed, or left unsigned, is never presented', async () => {
    const before = (await books()).length;
    const wallet = {};
    const { page, complaints, presented, click, close } = await open(browser, shop, PRICED, wallet);
    const put = (at, bytes) => (transaction) => {
      Buffer.from(bytes).copy(transaction, at);
      return transaction;
    };
    const changes = [
      [/changed the payment/, { change: put(AT.keys + 3 * 32, randomBytes(32)) }],
      [/changed the payment/, { change: put(AT.amount, [255]) }],
      [/changed the payment/, { change: put(AT.keys, randomBytes(32)) }],
      [/changed the payment/, { change: put(AT.keys + 7 * 32, randomBytes(32)) }],
      [/something else/, { change: put(AT.message, [0x81]) }],
      [/something else/, { change: (transaction) => transaction.subarray(0, -40) }],
      [/something else/, { change: (transaction) => Buffer.concat([transaction, Buffer.from([0])]) }],
      [/didn't sign/, { signs: false }],
    ];
    for (const [words, change] of changes) {
      Object.assign(wallet, { change: undefined, signs: true }, change);
      await click();
      await problem(page);
      assert.match(await told(page), words);
      assert.match(await told(page), /Nothing was sent and nothing was charged/);
    }
    assert.deepEqual([presented.length, await stored(page), (await books()).length], [0, 0, before]);
    await looks(page, pictures, 'changed');
    // Whoever signs with another key has said nothing: that is the gateway's to see.
    Object.assign(wallet, { signs: false, change: (transaction) => signed(transaction, new Keypair()) });
    await click();
    await problem(page);
    assert.match(await told(page), /signature.*You were not charged for it/);
    assert.deepEqual([presented.length, await stored(page), (await books()).length], [1, 0, before]);
    // A memo of its own is what a gateway allows.
    Object.assign(wallet, { signs: true, change: (transaction) => withMemo(transaction, 'from my wallet') });
    await click();
    await result(page);
    assert.equal((await books()).length, before + 1);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a Solana settlement that takes long is waited for, over a reload too, and charged once', async () => {
    const before = (await books()).length;
    const wallet = {};
    const { page, complaints, presented, click, close } = await open(browser, shop, PRICED, wallet);
    shop.silent = ['getSignatureStatuses', 'getTransaction'];
    try {
      await click();
      await page.waitForFunction(() => /is being settled/.test(document.querySelector('#status').textContent), null, { timeout: WAIT_MILLIS });
      await looks(page, pictures, 'pending');
      assert.equal(await stored(page), 1);
      await page.reload();
      await page.getByRole('button', { name: 'Present the same payment again' }).click();
      await page.waitForFunction(() => /is being settled/.test(document.querySelector('#status').textContent), null, { timeout: WAIT_MILLIS });
      assert.equal((await books())[0].state, 'signed');
    } finally {
      shop.silent = [];
    }
    await result(page);
    assert.equal(new Set(presented).size, 1);
    assert.equal(signatures(wallet), 1);
    assert.equal((await books()).length, before + 1);
    assert.equal((await books())[0].state, 'served');
    assert.equal(await stored(page), 0);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a Solana payment whose blockhash the gateway lost sight of is not signed', async () => {
    const wallet = {};
    const { page, complaints, presented, click, close } = await open(browser, shop, PRICED, wallet);
    // As a gateway says it that has seen no head lately.
    await page.route('**/weather', async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: (await answer.text()).replace(/&quot;blockhash&quot;:&quot;\w+&quot;,/, '') });
    });
    await click();
    await problem(page);
    assert.match(await told(page), /newest block. Please try again/);
    assert.deepEqual([signatures(wallet), presented.length, await stored(page)], [0, 0, 0]);
    // And one who takes longer to sign than the network allows has signed nothing of worth.
    await page.unroute('**/weather');
    await page.route('**/weather', async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: (await answer.text()).replace(/&quot;blockhashSecs&quot;:\d+/, '&quot;blockhashSecs&quot;:1') });
    });
    wallet.before = () => new Promise((done) => setTimeout(done, 1500));
    await click();
    await page.waitForFunction(() => /longer than the network allows/.test(document.querySelector('#problem').textContent));
    assert.deepEqual([signatures(wallet), presented.length, await stored(page)], [1, 0, 0]);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('a page that came without TLS says that Solana wallets can\'t pay there', async () => {
    const wallet = {};
    const { page, complaints, click, close } = await open(browser, shop, PRICED, wallet, 'shop.test');
    await click();
    await problem(page);
    assert.match(await told(page), /came by https/);
    assert.equal(signatures(wallet), 0);
    assert.deepEqual(complaints, []);
    await close();
  });

  await step('an answer that is a redirect is shown as a link, and is paid once', async () => {
    const before = (await books()).length;
    for (const [moved, href] of [['/elsewhere?a=1', `http://127.0.0.1:${shop.port}/elsewhere?a=1`], ['javascript:alert(1)', null]]) {
      const { page, complaints, click, close } = await open(browser, shop, `${PRICED}?moved=${encodeURIComponent(moved)}`, {});
      await click();
      await result(page);
      const link = page.locator('#answer a');
      assert.equal(await link.getAttribute('href'), href);
      assert.equal(await link.textContent(), href ?? moved);
      assert.equal(await page.locator('#save').isVisible(), false);
      assert.equal(await stored(page), 0);
      if (href) await looks(page, pictures, 'redirect');
      assert.deepEqual(complaints, []);
      await close();
    }
    const rows = await books();
    assert.deepEqual([rows.length, rows[0].state], [before + 2, 'served']);
  });
}
