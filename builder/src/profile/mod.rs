//! The profile: what a node is, declared in TOML.
//!
//! A file says only what is particular about one kind of node and `extends` another for the rest.
//! [`Resolved::load`] follows that chain, merges, and yields one typed [`Profile`]; whatever is wrong is reported
//! with file, line and column before anything else happens. [`check_profile`] then looks at the whole, across
//! keys, and [`render`] turns it into files of the image. Nothing behind this module reads TOML.

pub mod check;
mod load;
pub mod model;
mod reference;
pub mod render;
mod schema;
mod show;
pub mod storage;
pub mod value;

pub use check::check_profile;
pub use load::{Diagnostic, KeyOrigin, ProfileError, Resolved, locate};
pub use model::Profile;
pub use reference::reference;
pub use schema::schema;
pub use show::{KeyValue, flatten};
