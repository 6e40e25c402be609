// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

import {TestUSDC} from "./TestUSDC.sol";

/// Doesn't revert on a used nonce: it emits another event and returns, as PYUSD does. The transaction succeeds and
/// nothing has moved.
contract SilentNonceToken is TestUSDC {
    event AuthorizationAlreadyUsed(address indexed authorizer, bytes32 indexed nonce);

    function _transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) internal override {
        if (authorizationState[from][nonce]) {
            emit AuthorizationAlreadyUsed(from, nonce);
            return;
        }
        super._transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, signature);
    }
}

/// Uses the authorization up and reports success, but moves nothing and emits no Transfer.
contract NoEffectToken is TestUSDC {
    function _transfer(address, address, uint256) internal override {}
}

/// Keeps one per cent: the payee gets less than was signed for, and the Transfer says so.
contract FeeOnTransferToken is TestUSDC {
    address public constant COLLECTOR = address(0xFEE);

    function _transfer(address from, address to, uint256 value) internal override {
        uint256 fee = value / 100;
        super._transfer(from, to, value - fee);
        super._transfer(from, COLLECTOR, fee);
    }
}

/// Moves nothing; the right Transfer event is there, but another contract emitted it.
contract ForeignLogToken is TestUSDC {
    function _transfer(address from, address to, uint256 value) internal override {
        new ForeignLog(from, to, value);
    }
}

contract ForeignLog {
    event Transfer(address indexed from, address indexed to, uint256 value);

    constructor(address from, address to, uint256 value) {
        emit Transfer(from, to, value);
    }
}

/// Burns whatever gas it is given, then moves the money.
contract GasBombToken is TestUSDC {
    uint256 private constant GAS_KEPT = 120_000;

    function _transfer(address from, address to, uint256 value) internal override {
        while (gasleft() > GAS_KEPT) {}
        super._transfer(from, to, value);
    }
}
