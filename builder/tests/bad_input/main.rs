//! Bad input, from the outside: the right exit code, one clear message, and nothing half-made.
//!
//! Nothing here needs a network: mirrors are on loopback and answer as a case needs it. See also `profile.rs` for
//! the profile's own commands.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod downloads;
mod fixture;
mod images;
mod interrupted;
mod mirror;
mod profiles;
