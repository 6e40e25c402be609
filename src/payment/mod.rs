//! The money path: what a presented payment gets, and how it is carried through to its end.
//!
//! Knows neither HTTP nor any chain, so that it is tested without sockets.

pub mod scheme;
