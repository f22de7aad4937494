//! Storage that guests reach on the host's loopback: an NFS server and an iSCSI target.
//!
//! Both are the field's own programs in user space, NFS-Ganesha ([`nfs`]) and tgt ([`iscsi`]), on free ports of
//! 127.0.0.1, with their files in a directory of the run, and gone with the value that holds them. Where one is not
//! installed a scenario is skipped. A [`gate::Gate`] in front of a server can be shut, to take one way to it away. Units of the
//! target can be had by CSI, too ([`iscsi::IscsiPlugin`]).

pub mod gate;
pub mod iscsi;
pub mod nfs;
mod server;
