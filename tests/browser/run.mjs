#!/usr/bin/env node
// Pages in headless Chromium; the last line is 'N passed, N failed'.
//
//   tests/browser/run.mjs [--pictures DIR] [PAGE]     one page's tests (dashboard, payment, solana, api), or all
//
// Wants: `npm ci` done here; Debian's chromium, or another named by CHROMIUM; python3, and for `api` the virtualenv
// tests/e2e/python/.venv-schemathesis; the gateway built with the feature
// dev-solana: TOLLHOUSE_BIN names another binary than target/debug/tollhouse. tests/run.sh sees to all of it. The pictures
// are left in target/browser; `tests/browser/pictures.sh` takes those of the README from there.

import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { launch } from './lib/browser.mjs';
import { Shop } from './lib/gateway.mjs';
import { api } from './api.mjs';
import { dashboard } from './dashboard.mjs';
import { payment } from './payment.mjs';
import { solana } from './solana.mjs';

const PAGES = { dashboard, payment, solana, api };
const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

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

try {
  [browser, shop] = await Promise.all([launch(), Shop.open(folder)]);
  for (const name of wanted) await PAGES[name](browser, shop, pictures, step);
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
  await shop?.close();
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
