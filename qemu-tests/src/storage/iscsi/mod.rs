//! iSCSI: a target on the host ([`IscsiTarget`]), and a CSI plugin whose controller makes units of it ([`IscsiPlugin`]).

mod controller;
mod plugin;
mod target;
mod units;

pub use plugin::IscsiPlugin;
pub use target::{Account, IscsiTarget, TARGET};
