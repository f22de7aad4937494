//! The Controller and GroupController services: each call checked, passed on, and its result packed.

mod convert;
mod group;
mod pages;
mod service;

pub(crate) use convert::wire_condition;
pub use group::GroupServer;
pub use service::ControllerServer;
