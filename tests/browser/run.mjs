#!/usr/bin/env node
// Pages in headless Chromium; the last line is 'N passed, N failed'.
//
//   tests/browser/run.mjs [--pictures DIR] [PAGE]     one page's tests (dashboard, payment, solana, api), or all
//
// Wants: `npm ci` done here; Debian's chromium, or another named by CHROMIUM; python3, and for `api` the virtualenv
// tests/e2e/python/.venv-schemathesis; the gateway built with the feature
// dev-solana: TOLLHOUSE_BIN names another binary than that of `cargo build`. tests/run.sh sees to all of it. The pictures
// are left in target/browser; `tests/browser/pictures.sh` takes those of the README from there.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch } from './lib/browser.mjs';
import { Shop } from './lib/gateway.mjs';
import { base58 } from './lib/solana.mjs';
import { api } from './api.mjs';
import { dashboard } from './dashboard.mjs';
import { payment } from './payment.mjs';
import { solana } from './solana.mjs';

const PAGES = { dashboard, payment, solana, api };
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** Of one answer; the shop sells 10 MiB too. */
const ANSWER_CHARS_MAX = 1_000_000;

const { values, positionals } = parseArgs({ allowPositionals: true, options: { pictures: { type: 'string' } } });
const pictures = values.pictures ?? path.join(ROOT, 'target/browser');
const wanted = positionals.length ? positionals : Object.keys(PAGES);
mkdirSync(pictures, { recursive: true });
const folder = mkdtempSync(path.join(os.tmpdir(), 'tollhouse-browser-'));
let passed = 0, failed = 0, browser, shop;

async function step(name, check) {
  const started = Date.now();
  try {
    await check();
    passed += 1;
    console.log(`PASS ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.message}\n${error.stack}`);
    throw error;
  }
}

/** Remembers the answers that pages get, as [who, what]. */
function hear(browser) {
  const said = [];
  const newContext = browser.newContext.bind(browser);
  browser.newContext = async (...args) => {
    const context = await newContext(...args);
    context.on('response', (response) => {
      const keep = (text) => said.push([response.url(), text.slice(0, ANSWER_CHARS_MAX)]);
      keep(JSON.stringify(response.headers()));
      // Some have none, and some pages are gone before theirs is here.
      response.text().then(keep, () => {});
    });
    return context;
  };
  return said;
}

/** Every key of the shop's folder, in the spellings by which it could be told. */
function secrets(devFolder) {
  return readdirSync(devFolder).filter((name) => /\.key$|^solana-.*\.json$/.test(name)).flatMap((name) => {
    const text = readFileSync(path.join(devFolder, name), 'utf8').trim();
    const bytes = name.endsWith('.json') ? Buffer.from(JSON.parse(text)) : Buffer.from(text.replace(/^0x/, ''), 'hex');
    const seed = bytes.subarray(0, 32);
    const spellings = [seed.toString('hex'), seed.toString('base64').slice(0, 40), base58(bytes), [...seed].join(',')];
    return spellings.map((spelling) => [name, spelling]);
  });
}

function leaks(keys, said) {
  assert.ok(keys.length >= 20 && said.length > 2, 'nothing to look for, or nowhere to look');
  return said.flatMap(([who, what]) => {
    const text = what.toLowerCase().replaceAll(', ', ',');
    return keys.filter(([, spelling]) => text.includes(spelling.toLowerCase())).map(([name]) => `${name} by ${who}`);
  });
}

try {
  [browser, shop] = await Promise.all([launch(), Shop.open(folder)]);
  const said = hear(browser);
  for (const name of wanted) await PAGES[name](browser, shop, pictures, step);
  await step('no key is in anything that was logged or answered', async () => {
    await shop.stop();
    said.push(...['dev', 'gateway'].map((log) => [log, readFileSync(path.join(folder, `${log}.log`), 'utf8')]));
    assert.deepEqual(leaks(secrets(shop.devFolder), said), []);
  });
} catch (error) {
  if (failed === 0) {
    failed += 1;
    console.log(`FAIL setting up\n${error.stack ?? error}`);
  }
  for (const log of ['dev', 'gateway']) {
    try {
      console.log(`--- last lines of ${log} ---\n${readFileSync(path.join(folder, `${log}.log`), 'utf8').split('\n').slice(-40).join('\n')}`);
    } catch { /* it never ran */ }
  }
} finally {
  await browser?.close();
  await shop?.stop();
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
