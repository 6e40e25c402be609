// The operator's dashboard in each of its states, at each width, in each theme: no error in the console, no barrier that axe
// knows, nothing wider than the screen, and every figure as `payments export` has it.

import assert from 'node:assert/strict';
import { barriers, eachLook, open, overflow, shoot } from './lib/browser.mjs';
import { until } from './lib/gateway.mjs';

const EARNED = ['paid', 'delivering', 'served', 'owed'];
const RUNNING = ['claimed', 'forwarded', 'signed', 'paid', 'delivering'];
const MANY = 10_000;
/** Rows of a page of payments. */
const PAGE_LEN = 15;
/** All assets here are dollars with six places. */
const DECIMALS = 6;

/** Exact dollars, written apart from how the page does it. */
function dollars(rows) {
  const units = rows.reduce((total, row) => total + BigInt(row.amount), 0n);
  const whole = units / 1_000_000n, places = (units % 1_000_000n).toString().padStart(DECIMALS, '0');
  const kept = places.slice(0, 2) + places.slice(2).replace(/0+$/, '');
  return `$${whole.toLocaleString('en-US')}.${kept}`;
}

/** What the page must say of these books. */
function expected(rows, days) {
  const today = new Date().toISOString().slice(0, 10);
  const first = new Date(Date.parse(today) - (days - 1) * 86_400_000).toISOString().slice(0, 10);
  const earned = rows.filter((row) => EARNED.includes(row.state) && !row.refund_transaction);
  const of = (day) => day.paid_at.slice(0, 10);
  const shown = earned.filter((row) => of(row) >= first);
  const by = (field) => {
    const names = [...new Set(shown.map(field))];
    return Object.fromEntries(names.map((name) => {
      const group = shown.filter((row) => field(row) === name);
      return [name, [group.length.toLocaleString('en-US'), dollars(group)]];
    }));
  };
  return {
    figures: {
      all: dollars(earned), today: dollars(earned.filter((row) => of(row) === today)), days: dollars(shown),
      running: String(rows.filter((row) => RUNNING.includes(row.state)).length), owed: dollars(rows.filter((row) => row.state === 'owed' && !row.refund_transaction)),
    },
    routes: by((row) => row.route),
    networks: by((row) => row.network),
    byDay: by(of),
    newest: rows.slice(0, PAGE_LEN).map((row) => [row.record, row.state, row.request]),
  };
}

/** What the page does say. */
function told(page) {
  return page.evaluate(() => {
    const text = (element) => element.textContent;
    const groups = (id) => Object.fromEntries([...document.querySelectorAll(`#${id} [data-group]`)].map((row) =>
      [row.dataset.group, [text(row.cells[1]), text(row.cells[2])]]));
    return {
      figures: Object.fromEntries([...document.querySelectorAll('[data-figure]')].map((figure) => [figure.dataset.figure, text(figure)])),
      routes: groups('by-route'),
      networks: groups('by-network'),
      byDay: Object.fromEntries([...document.querySelectorAll('#by-day [data-day]')].map((row) =>
        [row.dataset.day, [text(row.cells[row.cells.length - 1]), text(row.cells[row.cells.length - 2])]]).filter(([, [count]]) => count !== '0')),
      newest: [...document.querySelectorAll('#payments [data-row]')].map((row) => [row.dataset.row, text(row.cells[1]), text(row.cells[2])]),
    };
  });
}

/** Waits until the page says what the books say. */
async function compare(shop, page, days, rows) {
  const wanted = expected(rows ?? await shop.export(), days);
  let found;
  await until('the books’ figures', async () => {
    found = await told(page);
    return JSON.stringify(sorted(found)) === JSON.stringify(sorted(wanted));
  }).catch(() => assert.deepEqual(found, wanted));
}
function sorted(value) {
  if (Array.isArray(value) || typeof value !== 'object') return value;
  return Object.fromEntries(Object.keys(value).sort().map((name) => [name, sorted(value[name])]));
}

/** Looks at a state in every width and theme. */
async function look(opened, state, pictures, problems) {
  await eachLook(opened.page, async (name) => {
    await opened.page.evaluate(() => scrollTo(0, 0));
    for (const barrier of await barriers(opened.page)) problems.push(`${state} ${name}: ${barrier}`);
    for (const wide of await overflow(opened.page)) problems.push(`${state} ${name}: ${wide}`);
    await shoot(opened.page, pictures, `dashboard-${state}-${name}`);
  });
  // The browser itself notes every answer of 503.
  const own = opened.complaints.splice(0).filter((text) => state !== 'no-ledger' || !/status of 503/.test(text));
  for (const complaint of own) problems.push(`${state}: ${complaint}`);
}

export async function dashboard(browser, shop, pictures, step) {
  const problems = [];
  const opened = await open(browser, `${shop.admin}/`);
  const { page } = opened;
  const pill = () => page.textContent('#pill');
  const words = (text) => until(text, async () => (await pill()) === text);

  await step('empty', async () => {
    await words('Open');
    await compare(shop, page, 30);
    assert.match(await page.textContent('#payments'), /No payment yet/);
    await gasPayers(shop, page);
    await look(opened, 'empty', pictures, problems);
  });
  await step('one payment, shown as it happens', async () => {
    await shop.pay('/weather');
    await compare(shop, page, 30);
    assert.equal(await page.textContent('[data-figure=all]'), '$0.001');
    await page.waitForSelector('[data-stage=settle]');
    await stages(shop, page);
    await look(opened, 'one', pictures, problems);
  });
  await step('ten thousand', async () => {
    await shop.seed('many', String(MANY - 1));
    await compare(shop, page, 30);
    await look(opened, 'many', pictures, problems);
  });
  await step('other days, filters and pages', () => controls(shop, page));
  await step('something owed', async () => {
    await shop.seed('owe', '3');
    await compare(shop, page, 30);
    assert.equal((await page.$$('#owed [data-row]')).length, 3);
    await look(opened, 'owed', pictures, problems);
  });
  await step('a chain down', async () => {
    shop.rpc.cut();
    await words('1 of 3 networks closed');
    assert.match(await page.textContent('[data-network="eip155:84532"] .reason'), /endpoint|block/);
    await look(opened, 'chain-down', pictures, problems);
    shop.rpc.mend();
  });
  await step('the ledger unreachable', async () => {
    await shop.seed('hide');
    await words('Ledger unreachable');
    assert.match(await page.textContent('#banner'), /does not answer\. Figures of payments are those of \d\d:\d\d:\d\d/);
    await look(opened, 'no-ledger', pictures, problems);
    await shop.seed('show');
    await until('the ledger is back', async () => (await page.isHidden('#banner')) && (await pill()) !== 'Ledger unreachable');
    await compare(shop, page, 30);
  });
  await step('locked, until the token is given', () => door(browser, shop, pictures, problems));
  await step('by keyboard alone', () => keyboard(page));
  problems.push(...opened.complaints.filter((text) => !/status of 503/.test(text)));
  await opened.close();
  await step('no error, no barrier and nothing too wide in any of them', () => assert.deepEqual(problems, []));
}

/** Who pays fees, and what is left to them: as the chains have it, before anything was paid. */
async function gasPayers(shop, page) {
  const { signers } = await (await fetch(`${shop.admin}/signers`)).json();
  assert.deepEqual(signers.map(({ network }) => network.split(':')[0]).sort(), ['eip155', 'solana']);
  for (const { network, signer, balance, decimals, payments_left_min: left } of signers) {
    const isEvm = network.startsWith('eip155');
    const onChain = isEvm ? BigInt(await shop.askEvm('eth_getBalance', [signer, 'latest'])) : BigInt((await shop.askSolana('getBalance', [signer])).value);
    assert.equal(BigInt(balance), onChain, network);
    const row = `#signers [data-signer="${signer}"]`;
    const exact = (BigInt(balance) * 10_000n / 10n ** BigInt(decimals)).toString().padStart(5, '0').replace(/(\d{4})$/, '.$1');
    const shown = await page.textContent(`${row} td.num`);
    assert.ok(Number(shown.replace('…', '').replaceAll(',', '')) === Number(exact), `${shown} is not ${exact}`);
    const words = left < 1e6 ? `${left.toLocaleString('en-US')} payments` : `${Math.floor(left / 1e6).toLocaleString('en-US')} million payments`;
    assert.equal(await page.textContent(`${row} .chip`), words);
    // At least so many: nobody is told that more fits into the balance than does, at any fee that is ever paid.
    assert.ok(left > 0 && BigInt(left) <= onChain / 10_000n, `${left} payments from ${onChain}`);
  }
}

/** Each stage of the one payment so far: as often as the gateway has it, the median within the bucket that holds it. */
async function stages(shop, page) {
  const { stages } = await (await fetch(`${shop.admin}/latency`)).json();
  assert.ok(stages.some(({ stage }) => stage === 'settle') && stages.some(({ stage }) => stage === 'verify'), JSON.stringify(stages));
  for (const { stage, count, buckets } of stages) {
    const cells = await page.$$eval(`[data-stage="${stage}"] td.num`, (found) => found.map((cell) => cell.textContent));
    assert.equal(cells[0], String(count), stage);
    const at = buckets.findIndex((bucket) => bucket.count >= count / 2);
    const [, number, unit] = cells[1].match(/^([\d.]+)\s*(\S+)$/);
    const secs = Number(number) * { 'µs': 1e-6, ms: 1e-3, s: 1 }[unit];
    const [from, to] = [at > 0 ? buckets[at - 1].le_seconds : 0, buckets[at].le_seconds];
    assert.ok(secs >= from * 0.95 && secs <= to * 1.05, `${stage}: ${cells[1]} is not of ${from} to ${to}`);
  }
}

async function controls(shop, page) {
  const rows = await shop.export();
  for (const days of ['7', '90', '30']) {
    await page.check(`#range input[value="${days}"]`, { force: true });
    await compare(shop, page, Number(days), rows);
  }
  const shown = () => page.$$eval('#payments [data-row]', (found) => found.map((row) => row.dataset.row));
  const wait = async (wanted) => until('the page of payments', async () => JSON.stringify(await shown()) === JSON.stringify(wanted));
  const ids = (found) => found.map((row) => row.record);
  await page.click('#older');
  await wait(ids(rows.slice(PAGE_LEN, 2 * PAGE_LEN)));
  await page.click('#newer');
  await wait(ids(rows.slice(0, PAGE_LEN)));
  await page.selectOption('#state', 'failed');
  await wait(ids(rows.filter((row) => row.state === 'failed').slice(0, PAGE_LEN)));
  await page.selectOption('#state', RUNNING.join(','));
  await wait(ids(rows.filter((row) => RUNNING.includes(row.state)).slice(0, PAGE_LEN)));
  await page.selectOption('#state', '');
  await wait(ids(rows.slice(0, PAGE_LEN)));
}

/** The page where a token is needed: elsewhere than on loopback, which the tests don't listen on, so that the refusals are played. */
async function door(browser, shop, pictures, problems) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, reducedMotion: 'reduce' });
  const page = await context.newPage();
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.route(`${shop.admin}/**`, async (route) => {
    const request = route.request();
    const isPage = new URL(request.url()).pathname === '/';
    if (isPage || request.headers().authorization === 'Bearer right') return route.continue();
    return route.fulfill({ status: 401, contentType: 'application/problem+json', body: '{"error":"token_required"}' });
  });
  await page.goto(`${shop.admin}/`);
  await page.waitForSelector('#login:not([hidden])');
  await look({ page, complaints }, 'locked', pictures, problems);
  await page.fill('#token', 'wrong');
  await page.press('#token', 'Enter');
  await until('refused', async () => (await page.textContent('#login-error')) === 'That is not the token.');
  await page.fill('#token', 'right');
  await page.press('#token', 'Enter');
  await page.waitForSelector('[data-figure=all]');
  assert.equal(await page.isHidden('#login'), true);
  await page.reload();
  await page.waitForSelector('[data-figure=all]');
  await page.click('#forget');
  await page.waitForSelector('#login:not([hidden])');
  assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length + document.cookie.length), 0);
  assert.equal((await page.evaluate(() => document.querySelector('main').textContent)).includes('$'), false, 'nothing of the books is left');
  await context.close();
}

/** Everything that can be clicked can be reached and used with keys. */
async function keyboard(page) {
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  const reached = new Set();
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press('Tab');
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.tagName));
  }
  for (const wanted of ['pause', 'days', 'state', 'older', 'BUTTON', 'SUMMARY']) assert.ok(reached.has(wanted), `${wanted} of ${[...reached]}`);
  await page.focus('#payments button');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#one-body dl');
  assert.deepEqual(await barriers(page), []);
  await page.keyboard.press('Escape');
  assert.equal(await page.evaluate(() => document.querySelector('#one').open), false);
  await page.focus('#pause');
  await page.keyboard.press('Enter');
  assert.match(await page.textContent('#when'), /Paused/);
}
