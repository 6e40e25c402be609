//! Tollhouse: a reverse proxy that charges.

pub mod types;
