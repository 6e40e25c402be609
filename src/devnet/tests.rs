//! What the chain promises.
