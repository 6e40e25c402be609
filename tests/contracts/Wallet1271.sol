// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

/// A smart-contract wallet of one owner that answers EIP-1271 for its owner's 65-byte signature over the bare digest.
///
/// The owner is in storage slot 0, so a test may also place the runtime code and write the slot. Without an owner the
/// wallet answers for its own address: that is an EOA that delegated to this code by EIP-7702.
contract Wallet1271 {
    bytes4 internal constant MAGIC = 0x1626ba7e;
    bytes4 internal constant REFUSED = 0xffffffff;

    address public owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) public view virtual returns (bytes4) {
        if (signature.length != 65) return REFUSED;
        address expected = owner == address(0) ? address(this) : owner;
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        address signer = ecrecover(digest, uint8(signature[64]), r, s);
        return signer != address(0) && signer == expected ? MAGIC : REFUSED;
    }

    receive() external payable {}
}

/// Says yes to a simulation, which has no gas price, and no on chain.
contract FickleWallet is Wallet1271 {
    constructor(address owner_) Wallet1271(owner_) {}

    function isValidSignature(bytes32 digest, bytes calldata signature) public view override returns (bytes4) {
        return tx.gasprice == 0 ? super.isValidSignature(digest, signature) : REFUSED;
    }
}
