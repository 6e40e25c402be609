// Signs one bank transfer offline with @cosmjs 0.39.0, in SIGN_MODE_DIRECT or as amino JSON, and says what was signed.
// By itself: what it is told comes as JSON, what it made goes out as JSON.
//
//   node cosmjs_sign.mjs '{"mode":"direct","key":"…hex","prefix":"noble","chainId":"grand-1","accountNumber":1,
//     "sequence":0,"to":"noble1…","denom":"uusdc","amount":"10000","feeAmount":"12000","gas":"120000","memo":"",
//     "timeoutHeight":0}'
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const require = createRequire(new URL('../node-cosmjs/package.json', import.meta.url));
const { Secp256k1Wallet, serializeSignDoc } = require('@cosmjs/amino');
const { fromHex, toBase64, toHex } = require('@cosmjs/encoding');
const { DirectSecp256k1Wallet, makeSignBytes } = require('@cosmjs/proto-signing');
const { SigningStargateClient } = require('@cosmjs/stargate');
const { TxRaw } = require('cosmjs-types/cosmos/tx/v1beta1/tx');

/** A wallet of either kind that remembers the bytes it was asked to sign. */
async function recordingWallet(wish) {
  const key = fromHex(wish.key);
  const seen = {};
  if (wish.mode === 'amino') {
    const wallet = await Secp256k1Wallet.fromKey(key, wish.prefix);
    const signAmino = async (address, document) => {
      const answer = await wallet.signAmino(address, document);
      seen.signBytes = serializeSignDoc(answer.signed);
      return answer;
    };
    return { seen, signer: { getAccounts: () => wallet.getAccounts(), signAmino } };
  }
  const wallet = await DirectSecp256k1Wallet.fromKey(key, wish.prefix);
  const signDirect = async (address, document) => {
    const answer = await wallet.signDirect(address, document);
    seen.signBytes = makeSignBytes(answer.signed);
    return answer;
  };
  return { seen, signer: { getAccounts: () => wallet.getAccounts(), signDirect } };
}

export async function sign(wish) {
  const { seen, signer } = await recordingWallet(wish);
  const [account] = await signer.getAccounts();
  const client = await SigningStargateClient.offline(signer);
  const amount = [{ denom: wish.denom, amount: wish.amount }];
  const message = {
    typeUrl: '/cosmos.bank.v1beta1.MsgSend',
    value: { fromAddress: account.address, toAddress: wish.to, amount },
  };
  const fee = { amount: [{ denom: wish.feeDenom ?? wish.denom, amount: wish.feeAmount }], gas: wish.gas };
  const { accountNumber, sequence, chainId } = wish;
  const timeoutHeight = wish.timeoutHeight ? BigInt(wish.timeoutHeight) : undefined;
  const signerData = { accountNumber, sequence, chainId };
  const raw = await client.sign(account.address, [message], fee, wish.memo ?? '', signerData, timeoutHeight);
  return {
    address: account.address,
    publicKey: toHex(account.pubkey),
    signBytes: toHex(seen.signBytes),
    transaction: toBase64(TxRaw.encode(raw).finish()),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(JSON.stringify(await sign(JSON.parse(process.argv[2]))));
}
