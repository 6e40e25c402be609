//! A shop that is opened, paid and closed.
