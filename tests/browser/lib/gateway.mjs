// The gateway under test on the chains of `tollhouse dev`, reached through wires that a test can cut.

import { execFile, execFileSync, spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
const BINARY = process.env.TOLLHOUSE_BIN ?? path.join(targetDirectory(), 'debug/tollhouse');
const PATIENCE_MILLIS = 60_000;
const run = promisify(execFile);

function targetDirectory() {
  const metadata = execFileSync('cargo', ['metadata', '--format-version', '1', '--no-deps'], { cwd: ROOT, maxBuffer: 1 << 24 });
  return JSON.parse(metadata).target_directory;
}

export async function until(what, look) {
  const deadline = Date.now() + PATIENCE_MILLIS;
  let last;
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found) return found;
    } catch (error) {
      last = error;
    }
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`not ${what} within ${PATIENCE_MILLIS / 1000} s${last ? `: ${last}` : ''}`);
}

/** A port nobody listens on, below those that outgoing connections get. */
export async function freePort() {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    const server = net.createServer();
    const isFree = await new Promise((done) => server.once('error', () => done(false)).listen(port, '127.0.0.1', () => done(true)));
    if (isFree) {
      await new Promise((done) => server.close(done));
      return port;
    }
  }
}

/** Leads to another port until it is cut. */
export async function wire(target) {
  const sockets = new Set();
  let isCut = false;
  const server = net.createServer((near) => {
    if (isCut) return near.destroy();
    const far = net.connect(target, '127.0.0.1');
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on('close', () => { sockets.delete(one); other.destroy(); }).on('error', () => other.destroy()).pipe(other);
    }
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return {
    port: server.address().port,
    cut() { isCut = true; sockets.forEach((socket) => socket.destroy()); },
    mend() { isCut = false; },
    close() { isCut = true; sockets.forEach((socket) => socket.destroy()); server.close(); },
  };
}

/** Leads HTTP to another port; what `answer` takes, given request, body and response, never gets there. */
export async function relay(target, answer) {
  const server = http.createServer((request, response) => {
    const parts = [];
    request.on('data', (part) => parts.push(part)).on('end', () => {
      const body = Buffer.concat(parts);
      if (answer(request, body, response)) return;
      const { method, url, headers } = request;
      const onward = http.request({ host: '127.0.0.1', port: target, method, path: url, headers }, (answered) => {
        response.writeHead(answered.statusCode, answered.rawHeaders);
        answered.on('error', () => response.destroy()).pipe(response);
      });
      onward.on('error', () => response.destroy()).end(body);
      response.on('close', () => onward.destroy());
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  return { port: server.address().port, close() { server.close(); server.closeAllConnections(); } };
}

async function ask(port, method, params) {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
  const answer = await fetch(`http://127.0.0.1:${port}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  return (await answer.json()).result;
}

function start(folder, name, args) {
  const child = spawn(BINARY, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const log = createWriteStream(path.join(folder, `${name}.log`));
  child.stdout.pipe(log, { end: false });
  child.stderr.pipe(log, { end: false });
  const ended = new Promise((done) => child.once('exit', done));
  return {
    child,
    async stop() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

/** Chains, a shop on them and its gateway. */
export class Shop {
  static async open(folder) {
    const shop = new Shop();
    shop.folder = folder;
    shop.devFolder = path.join(folder, 'dev');
    mkdirSync(shop.devFolder, { recursive: true });
    shop.dev = start(folder, 'dev', ['dev', '--dir', shop.devFolder, '--port', String(await freePort())]);
    const written = path.join(shop.devFolder, 'gateway.toml');
    const admin = await until('a shop', () => {
      if (shop.dev.child.exitCode !== null) throw new Error('`tollhouse dev` ended');
      return readFileSync(written, 'utf8').match(/\[admin\]\nlisten = "([^"]+)"/)?.[1];
    });
    await until('ready', async () => (await fetch(`http://${admin}/readyz`)).ok);
    await shop.configure(readFileSync(written, 'utf8'));
    return shop;
  }

  /** Another gateway on the same chains, with books of its own. */
  async configure(dev) {
    [this.port, this.adminPort] = [await freePort(), await freePort()];
    const port = (pattern) => Number(dev.match(pattern)[1]);
    const evm = /rpc_url = "http:\/\/127\.0\.0\.1:(\d+)"/, origin = /servers = \["127\.0\.0\.1:(\d+)"\]/;
    const solana = /(?<=solana-devnet\]\n)rpc_url = "http:\/\/127\.0\.0\.1:(\d+)"/;
    this.evmPort = port(evm);
    this.rpc = await wire(this.evmPort);
    /** Methods of the Solana node that nothing is heard of. */
    this.silent = [];
    this.solanaPort = port(solana);
    this.solana = await relay(this.solanaPort, (_request, body, response) => {
      const isSilent = this.silent.some((method) => body.includes(`"${method}"`));
      if (isSilent) response.destroy();
      return isSilent;
    });
    // The origin, and a resource of it that moved: `?moved=` tells where.
    this.origin = await relay(port(origin), (request, _body, response) => {
      const moved = new URL(request.url, 'http://origin').searchParams.get('moved');
      if (moved) response.writeHead(302, { location: moved }).end();
      return moved !== null;
    });
    const listens = [this.port, this.adminPort].map((port) => `127.0.0.1:${port}`);
    const text = dev
      .replace(solana, `rpc_url = "http://127.0.0.1:${this.solana.port}"\nsettle_timeout = "5s"`)
      .replace(evm, `rpc_url = "http://127.0.0.1:${this.rpc.port}"`)
      .replace(origin, `servers = ["127.0.0.1:${this.origin.port}"]`)
      .replace(/listen = "[^"]+"/g, () => `listen = "${listens.shift()}"`)
      .replace('"GET /file" = "$0.05"', '"GET /file" = { price = "$0.05", memo = "the file" }')
      .replace('sqlite:tollhouse.db', 'sqlite:books.db');
    this.config = path.join(this.devFolder, 'shop.toml');
    this.books = path.join(this.devFolder, 'books.db');
    writeFileSync(this.config, text);
    this.gateway = start(this.folder, 'gateway', ['run', '--config', this.config]);
    this.admin = `http://127.0.0.1:${this.adminPort}`;
    await until('ready', async () => {
      if (this.gateway.child.exitCode !== null) throw new Error('the gateway ended');
      const answer = await (await fetch(`${this.admin}/networks`)).json();
      return answer.networks.length > 1 && answer.networks.every((network) => network.ready);
    });
  }

  /** Pays for a path with the payer of `tollhouse dev`. */
  async pay(target) {
    const key = path.join(this.devFolder, 'payer.key');
    await run(BINARY, ['pay', '--key-file', key, '--state-dir', path.join(this.folder, 'payer'), `http://127.0.0.1:${this.port}${target}`]);
  }

  /** What the Solana node says, past the gateway. */
  askSolana(method, params = []) {
    return ask(this.solanaPort, method, params);
  }

  /** What the EVM node says, past the gateway. */
  askEvm(method, params = []) {
    return ask(this.evmPort, method, params);
  }

  /** The books as `payments export` tells them, newest first; those of a filter only. */
  async export(...filter) {
    const { stdout } = await run(BINARY, ['payments', '--config', this.config, 'export', '--format', 'json', ...filter], { maxBuffer: 1 << 28 });
    return JSON.parse(stdout).reverse();
  }

  /** Changes the books past the gateway: see seed.py. */
  async seed(...args) {
    const script = path.join(path.dirname(fileURLToPath(import.meta.url)), 'seed.py');
    await run('python3', [script, this.books, ...args]);
  }

  /** Ends what runs; the logs stay. */
  async stop() {
    for (const way of [this.rpc, this.solana, this.origin]) way?.close();
    await this.gateway?.stop();
    await this.dev?.stop();
    this.gateway = this.dev = null;
  }
}
