//! What makes a node out of an image: machine config before the network is up, then readiness, health and the
//! management API for as long as the node runs.
//!
//! - [`source`] finds the machine config, [`render`] turns it into files, [`apply`] puts them in place.
//! - [`bless`] marks a good boot for the boot loader.
//! - [`monitor`] watches the runtime through [`cri`], proves it once per boot with [`probe`], and keeps
//!   [`status`], which the console ([`screen`]) and the management API ([`api`]) show, where the image's
//!   [`settings`] let them.

pub mod api;
pub mod apply;
pub mod bless;
pub mod cri;
pub mod machine_facts;
pub mod monitor;
pub mod probe;
pub mod render;
pub mod resolver;
pub mod screen;
pub mod settings;
pub mod source;
pub mod status;
pub mod volume;
