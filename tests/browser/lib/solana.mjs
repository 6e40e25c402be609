// Solana as a wallet sees it, written apart from the page: addresses, keys, and a wallet of the wallet standard.

import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ed25519 } from '@noble/curves/ed25519';

const ALPHABET = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz';
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');
const ASSOCIATED = 'ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL';

export function base58(bytes) {
  let number = BigInt(`0x${Buffer.from(bytes).toString('hex') || '0'}`), text = '';
  for (; number > 0n; number /= 58n) text = ALPHABET[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte !== 0) break;
    text = `1${text}`;
  }
  return text;
}

export function unbase58(text) {
  const number = [...text].reduce((sum, char) => sum * 58n + BigInt(ALPHABET.indexOf(char)), 0n);
  return Buffer.from(number.toString(16).padStart(64, '0'), 'hex');
}

/** The associated token account of an owner, by another library's curve. */
export function tokenAccount(owner, program, mint) {
  for (let bump = 255; bump >= 0; bump -= 1) {
    const hash = createHash('sha256');
    for (const part of [owner, program, mint, Buffer.from([bump]), unbase58(ASSOCIATED), Buffer.from('ProgramDerivedAddress')]) hash.update(part);
    const address = hash.digest();
    try {
      ed25519.ExtendedPoint.fromHex(address, true);
    } catch {
      return { address, bump };
    }
  }
  throw new Error('no token account');
}

export class Keypair {
  constructor(seed = randomBytes(32)) {
    this.key = createPrivateKey({ key: Buffer.concat([PKCS8, seed]), format: 'der', type: 'pkcs8' });
    this.publicKey = createPublicKey(this.key).export({ format: 'der', type: 'spki' }).subarray(-32);
    this.address = base58(this.publicKey);
  }

  /** As `solana-keygen` writes it. */
  static read(path) {
    return new Keypair(Buffer.from(JSON.parse(readFileSync(path, 'utf8'))).subarray(0, 32));
  }

  sign(message) {
    return sign(null, message, this.key);
  }
}

/** Where what stands in a transaction that the page builds. */
export const AT = { message: 129, keys: 134, blockhash: 390, count: 422, amount: 451 };

/** Fills the second signature's slot: the payer's. */
export function signed(transaction, keypair) {
  const bytes = Buffer.from(transaction);
  keypair.sign(bytes.subarray(AT.message)).copy(bytes, 65);
  return bytes;
}

/** One more memo at the end: gateways let wallets add that. */
export function withMemo(transaction, text) {
  const bytes = Buffer.from(transaction);
  bytes[AT.count] += 1;
  const memo = Buffer.from([7, 0, text.length, ...Buffer.from(text)]);
  return Buffer.concat([bytes.subarray(0, -1), memo, bytes.subarray(-1)]);
}

/**
 * Puts a wallet into a page before it is loaded. `wallet` says what it does: its `keypair`, `chains` of its account, `refuses`,
 * and `change`, by which it changes what it signs; `asked` and `transactions` remember what was asked of it.
 */
export async function announce(page, wallet) {
  wallet.asked = [];
  wallet.transactions = [];
  wallet.chains ??= ['solana:mainnet', 'solana:devnet'];
  await page.exposeFunction('askSolanaWallet', async (method, transaction) => {
    wallet.asked.push(method);
    if (method === 'connect') {
      const { address, publicKey } = wallet.keypair;
      return { result: { address, publicKey: [...publicKey], chains: wallet.chains } };
    }
    wallet.transactions.push(Buffer.from(transaction));
    await wallet.before?.();
    if (wallet.refuses) return { error: 'User rejected the request.' };
    const asked = wallet.change ? wallet.change(Buffer.from(transaction)) : transaction;
    return { result: [...(wallet.signs === false ? asked : signed(asked, wallet.keypair))] };
  });
  await page.addInitScript((knows) => {
    const ask = async (...args) => {
      const { result, error } = await window.askSolanaWallet(...args);
      if (error) throw new Error(error);
      return result;
    };
    const wallet = Object.freeze({
      version: '1.0.0',
      name: 'Test Solana Wallet',
      icon: 'data:image/svg+xml,<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><circle cx="4" cy="4" r="4"/></svg>',
      chains: knows,
      accounts: [],
      features: {
        'standard:connect': {
          version: '1.0.0',
          async connect() {
            const { address, publicKey, chains } = await ask('connect');
            return { accounts: [{ address, publicKey: Uint8Array.from(publicKey), chains, features: ['solana:signTransaction'] }] };
          },
        },
        'solana:signTransaction': {
          version: '1.0.0',
          supportedTransactionVersions: ['legacy', 0],
          async signTransaction({ transaction }) {
            return [{ signedTransaction: Uint8Array.from(await ask('sign', [...transaction])) }];
          },
        },
      },
    });
    const register = (api) => api.register(wallet);
    dispatchEvent(new CustomEvent('wallet-standard:register-wallet', { detail: register }));
    addEventListener('wallet-standard:app-ready', ({ detail }) => register(detail));
  }, wallet.knows ?? ['solana:mainnet', 'solana:devnet']);
}
