// Compiles the test contracts to artifacts/*.json, which are committed so that a test run needs no compiler.
//
//   node tests/contracts/build.mjs           write the artifacts
//   node tests/contracts/build.mjs --check   fail when a committed artifact isn't what the sources compile to
//
// The compiler is the pinned one of tests/node-tools (npm ci there first).
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOLC_VERSION = '0.8.28';
const CONTRACTS = {
  'TestUSDC.sol': ['TestUSDC'],
  'HostileTokens.sol': ['SilentNonceToken', 'NoEffectToken', 'FeeOnTransferToken', 'ForeignLogToken', 'GasBombToken'],
  'Wallet1271.sol': ['Wallet1271', 'FickleWallet'],
};

const here = dirname(fileURLToPath(import.meta.url));
const artifactsDir = join(here, 'artifacts');
const solc = createRequire(join(here, '../node-tools/package.json'))('solc');

function compile() {
  if (!solc.version().startsWith(`${SOLC_VERSION}+`)) {
    throw new Error(`solc ${SOLC_VERSION} is wanted, ${solc.version()} is installed`);
  }
  const input = {
    language: 'Solidity',
    sources: Object.fromEntries(
      Object.keys(CONTRACTS).map((file) => [file, { content: readFileSync(join(here, file), 'utf8') }]),
    ),
    settings: {
      optimizer: { enabled: true, runs: 200 },
      evmVersion: 'paris',
      // Without the metadata hash the bytecode depends on the code alone, not on comments or paths.
      metadata: { bytecodeHash: 'none', appendCBOR: false },
      outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const problems = (output.errors ?? []).filter((problem) => problem.severity !== 'info');
  if (problems.length > 0) {
    throw new Error(problems.map((problem) => problem.formattedMessage).join('\n'));
  }
  const artifacts = new Map();
  for (const [file, names] of Object.entries(CONTRACTS)) {
    for (const contractName of names) {
      const contract = output.contracts[file][contractName];
      const artifact = {
        contractName,
        compiler: SOLC_VERSION,
        abi: contract.abi,
        bytecode: `0x${contract.evm.bytecode.object}`,
        deployedBytecode: `0x${contract.evm.deployedBytecode.object}`,
      };
      artifacts.set(`${contractName}.json`, `${JSON.stringify(artifact, null, 2)}\n`);
    }
  }
  return artifacts;
}

function listCommitted() {
  try {
    return readdirSync(artifactsDir).filter((file) => file.endsWith('.json'));
  } catch (error) {
    if (error.code === 'ENOENT') return [];
    throw error;
  }
}

function check(artifacts) {
  const stale = [];
  for (const file of new Set([...artifacts.keys(), ...listCommitted()])) {
    let committed = null;
    try {
      committed = readFileSync(join(artifactsDir, file), 'utf8');
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
    if (committed !== (artifacts.get(file) ?? null)) stale.push(file);
  }
  if (stale.length > 0) {
    console.error(`artifacts differ from their sources: ${stale.sort().join(', ')}`);
    console.error('hint: run `node tests/contracts/build.mjs` and commit the result');
    process.exit(1);
  }
  console.log(`${artifacts.size} contract artifacts match their sources`);
}

function write(artifacts) {
  mkdirSync(artifactsDir, { recursive: true });
  for (const file of listCommitted()) {
    if (!artifacts.has(file)) rmSync(join(artifactsDir, file));
  }
  for (const [file, text] of artifacts) writeFileSync(join(artifactsDir, file), text);
  console.log(`${artifacts.size} contract artifacts written`);
}

const [mode, ...rest] = process.argv.slice(2);
if (rest.length > 0 || (mode !== undefined && mode !== '--check')) {
  console.error('usage: build.mjs [--check]');
  process.exit(64);
}
(mode === '--check' ? check : write)(compile());
