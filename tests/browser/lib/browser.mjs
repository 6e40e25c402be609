// Chromium as people have it: widths, themes, what it complains of, and what keeps people out.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { chromium } from 'playwright-core';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export const WIDTHS = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 900 } };
export const THEMES = ['light', 'dark'];

/** The browser; CHROMIUM names another binary than Debian's. */
export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Containers have little shared memory, and root no sandbox.
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--force-color-profile=srgb',
      // A name that browsers don't hold for this machine: pages from there came without TLS.
      '--host-resolver-rules=MAP shop.test 127.0.0.1'],
  });
}

/** A page that remembers what went wrong in it: errors of the console, exceptions, and whom else it asked. */
export async function open(browser, url) {
  const context = await browser.newContext({ viewport: WIDTHS.desk, reducedMotion: 'reduce', bypassCSP: false });
  const page = await context.newPage();
  const complaints = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(`${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (error) => complaints.push(`exception: ${error.stack ?? error}`));
  const origin = new URL(url).origin;
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) complaints.push(`asked ${request.url()}`);
  });
  await page.goto(url);
  return { page, complaints, close: () => context.close() };
}

/** Puts the page into each width and theme in turn. */
export async function eachLook(page, look) {
  for (const [width, size] of Object.entries(WIDTHS)) {
    for (const theme of THEMES) {
      await page.setViewportSize(size);
      await page.emulateMedia({ colorScheme: theme, reducedMotion: 'reduce' });
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
      await look(`${width}-${theme}`, size);
    }
  }
}

/** What axe finds, a line each. It is run past the page's own policy, which forbids what isn't the page's. */
export async function barriers(page) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send('Page.getFrameTree');
  const { executionContextId } = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
  const evaluate = async (expression) => {
    const told = await session.send('Runtime.evaluate', { expression, contextId: executionContextId, awaitPromise: true, returnByValue: true });
    if (told.exceptionDetails) throw new Error(JSON.stringify(told.exceptionDetails));
    return told.result.value;
  };
  await evaluate(`${AXE}; 0`);
  const found = await evaluate(`axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.flatMap(
    (rule) => rule.nodes.map((node) => rule.id + ': ' + node.target.join(' ') + ': ' + node.failureSummary)))`);
  await session.detach();
  return found;
}

/** Whether anything sticks out of the page sideways. */
export async function overflow(page) {
  return page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll('body *')].filter((element) =>
      element.getBoundingClientRect().right > width + 1 && !element.closest('.skip, dialog, legend, .tall'));
    return wide.slice(0, 5).map((element) => `${element.tagName}.${element.getAttribute('class')} reaches ${element.getBoundingClientRect().right}`);
  });
}

/** Whether any line of text sticks out of its paragraph or field. */
export async function spilled(page) {
  return page.evaluate(() => [...document.querySelectorAll('p, dd, dt, li, h1, h2, h3, td')]
    .filter((element) => element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1)
    .map((element) => `${element.tagName} is ${element.scrollWidth} wide in ${element.clientWidth}: ${element.textContent}`));
}

/** A picture of the whole page. */
export async function shoot(page, folder, name) {
  await page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });
}
