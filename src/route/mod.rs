//! Which route a request takes: one canonical path, one table.
//!
//! What is matched is what is forwarded (contract §3): [`canonicalize`] makes the only path that anything downstream may
//! use, and [`RouteTable::find`] decides on it. Whatever could mean two things to two servers is refused. Knows no proxy,
//! no headers and no payments.

mod explain;
mod path;
mod pattern;
mod scope;
mod table;
mod views;

#[cfg(test)]
mod spelling_tests;
#[cfg(test)]
mod table_tests;

pub use explain::{Explanation, Outcome};
pub use path::{CanonicalPath, CanonicalTarget, PathError, TARGET_BYTES_MAX, canonicalize};
pub use scope::COMMON_METHODS;
pub use table::{Route, RouteMatch, RouteTable, normalize_host};
