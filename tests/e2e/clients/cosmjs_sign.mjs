// Signs one bank transfer offline with @cosmjs and prints it: what it is told comes as JSON, what it made goes out as JSON.
//
//   node cosmjs_sign.mjs '{"mode":"direct","key":"…hex","prefix":"noble","chainId":"grand-1","accountNumber":1,
//     "sequence":0,"to":"noble1…","denom":"uusdc","amount":"10000","feeAmount":"12000","gas":"120000","memo":"",
//     "timeoutHeight":0}'
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../node-cosmjs/package.json", import.meta.url));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { Secp256k1Wallet, serializeSignDoc } = await load("@cosmjs/amino");
const { fromHex, toBase64, toHex } = await load("@cosmjs/encoding");
const { DirectSecp256k1Wallet, makeSignBytes } = await load("@cosmjs/proto-signing");
const { SigningStargateClient } = await load("@cosmjs/stargate");

const wish = JSON.parse(process.argv[2]);
const key = fromHex(wish.key);
const wallet =
  wish.mode === "amino"
    ? await Secp256k1Wallet.fromKey(key, wish.prefix)
    : await DirectSecp256k1Wallet.fromKey(key, wish.prefix);
const [account] = await wallet.getAccounts();

// What the wallet is asked to sign, as it sees it.
let signBytes;
const signer = {
  getAccounts: () => wallet.getAccounts(),
  ...(wish.mode === "amino"
    ? {
        signAmino: async (address, document) => {
          const answer = await wallet.signAmino(address, document);
          signBytes = serializeSignDoc(answer.signed);
          return answer;
        },
      }
    : {
        signDirect: async (address, document) => {
          const answer = await wallet.signDirect(address, document);
          signBytes = makeSignBytes(answer.signed);
          return answer;
        },
      }),
};

const client = await SigningStargateClient.offline(signer);
const message = {
  typeUrl: "/cosmos.bank.v1beta1.MsgSend",
  value: {
    fromAddress: account.address,
    toAddress: wish.to,
    amount: [{ denom: wish.denom, amount: wish.amount }],
  },
};
const fee = { amount: [{ denom: wish.feeDenom ?? wish.denom, amount: wish.feeAmount }], gas: wish.gas };
const signerData = { accountNumber: wish.accountNumber, sequence: wish.sequence, chainId: wish.chainId };
const timeoutHeight = wish.timeoutHeight ? BigInt(wish.timeoutHeight) : undefined;
const raw = await client.sign(account.address, [message], fee, wish.memo, signerData, timeoutHeight);
const { TxRaw } = await load("cosmjs-types/cosmos/tx/v1beta1/tx");
console.log(
  JSON.stringify({
    address: account.address,
    publicKey: toHex(account.pubkey),
    signBytes: toHex(signBytes),
    transaction: toBase64(TxRaw.encode(raw).finish()),
  }),
);
