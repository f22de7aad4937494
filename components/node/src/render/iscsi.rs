//! What open-iscsi calls this node (`/etc/iscsi/initiatorname.iscsi`, iscsid(8)).

use super::Rendered;
use cairn_contract::machine::Iscsi;

/// The file; `default` is the name of a node whose config gives none.
pub(super) fn initiator(iscsi: &Iscsi, default: &str) -> Rendered {
    let name = iscsi.initiator_name.as_deref().unwrap_or(default);
    Rendered::public("/etc/iscsi/initiatorname.iscsi", format!("InitiatorName={name}\n"))
}
