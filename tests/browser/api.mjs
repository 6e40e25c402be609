// The admin interface under fire: schemathesis reads its OpenAPI document and asks what a hostile or careless client would.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TOOL = process.env.SCHEMATHESIS ?? path.join(HERE, '../e2e/python/.venv-schemathesis/bin/schemathesis');
/** Cases for each operation; the whole takes about half a minute. */
const CASES = process.env.API_CASES ?? '25';

export async function api(_browser, shop, _pictures, step) {
  await step('the admin interface withstands its own OpenAPI document', async () => {
    assert.ok(existsSync(TOOL), `no ${TOOL}: tests/run.sh installs it`);
    const { code, text } = await run([
      'run', `${shop.admin}/openapi.json`, '--url', shop.admin, '--checks', 'all', '--mode', 'all', '--max-examples', CASES, '--seed', '402',
      '--no-shrink', '--continue-on-failure', '--request-timeout', '10', '--warnings', 'off', '--no-color', '--generation-database', 'none',
    ]);
    assert.equal(code, 0, text);
    const cases = Number(text.match(/([\d,]+) generated/)?.[1].replaceAll(',', ''));
    assert.ok(cases > 200, `too few cases to mean anything:\n${text}`);
    // It still does what it is for.
    assert.equal((await fetch(`${shop.admin}/healthz`)).status, 200);
  });
}

function run(args) {
  return new Promise((done, failed) => {
    const child = spawn(TOOL, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: path.dirname(TOOL) });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece) => { text += piece; });
    child.once('error', failed);
    child.once('exit', (code) => done({ code, text: text.slice(-20_000) }));
  });
}
