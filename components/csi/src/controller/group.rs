//! The GroupController service: snapshots of several volumes at one moment.

use super::convert;
use crate::{
    backend::{Group, Member},
    driver::{Driver, call},
    error::Fault,
    id::{Name, SnapshotId, VolumeId},
};
use cairn_contract::csi::{
    self, group_controller_server::GroupController, group_controller_service_capability,
};
use std::{collections::BTreeSet, sync::Arc};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The service.
pub struct GroupServer(pub Arc<Driver>);

fn wire(group: Group) -> csi::VolumeGroupSnapshot {
    csi::VolumeGroupSnapshot {
        group_snapshot_id: group.id.to_string(),
        snapshots: group.snapshots.into_iter().map(convert::wire_snapshot).collect(),
        creation_time: Some(convert::wire_time(group.created)),
        ready_to_use: true,
    }
}

/// A group as its snapshots tell of it.
fn find(driver: &Driver, id: &SnapshotId) -> Result<Group, Fault> {
    let all = driver.backend.snapshots()?.into_iter();
    let snapshots: Vec<_> = all.filter(|snapshot| snapshot.group.as_ref() == Some(id)).collect();
    let Some(first) = snapshots.first() else {
        driver.backend.complete()?;
        return Err(Fault::NotFound(format!("there is no group of snapshots {id}")));
    };
    Ok(Group { id: id.clone(), created: first.created, snapshots })
}

/// Refuses a list of a group's snapshots that is not of this group; none is no mistake. A removal that failed in the middle is
/// repeated with the list of before: so what is `gone` may be in it, too.
fn is_of(group: &Group, listed: &[String], gone: impl Fn(&str) -> bool) -> Result<(), Fault> {
    let known: BTreeSet<&str> = group.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
    if listed.is_empty() || (listed.is_superset(&known) && listed.difference(&known).all(|id| gone(id))) {
        return Ok(());
    }
    Err(Fault::Invalid(format!("snapshot_ids are not those of the group {}", group.id)))
}

#[tonic::async_trait]
impl GroupController for GroupServer {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::GroupControllerGetCapabilitiesResponse> {
        use group_controller_service_capability::{Rpc, Type, rpc};
        let kind = Rpc { r#type: rpc::Type::CreateDeleteGetVolumeGroupSnapshot.into() };
        let capability = csi::GroupControllerServiceCapability { r#type: Some(Type::Rpc(kind)) };
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::CreateVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        let name = Name::parse(&request.name)?;
        if request.source_volume_ids.is_empty() {
            return Err(Fault::Invalid("source_volume_ids are missing".to_owned()).into());
        }
        let sources: Result<BTreeSet<VolumeId>, Fault> =
            request.source_volume_ids.iter().map(|id| VolumeId::parse(id)).collect();
        let sources: Vec<VolumeId> = sources?.into_iter().collect();
        let parameters = convert::parameters(request.parameters);
        let mut keys = vec![format!("the group of snapshots named {name}")];
        keys.extend(sources.iter().map(ToString::to_string));
        let group = call(&self.0, keys, move |driver| {
            let members: Vec<Member> =
                sources.into_iter().map(|id| (id.clone(), driver.staged.get(&id.file_name()))).collect();
            let group = driver.backend.group(&name, &members, &parameters)?;
            tracing::info!(group = %group.id, name = ?name.as_str(), "group of snapshots is there");
            Ok(wire(group))
        });
        Ok(Response::new(csi::CreateVolumeGroupSnapshotResponse { group_snapshot: Some(group.await?) }))
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::DeleteVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        let id = SnapshotId::parse(&request.group_snapshot_id)?;
        call(&self.0, vec![id.to_string()], move |driver| {
            match find(driver, &id) {
                Err(Fault::NotFound(_)) => return Ok(()),
                found => {
                    let all = driver.backend.snapshots()?;
                    let gone = |id: &str| all.iter().all(|there| there.id.as_str() != id);
                    is_of(&found?, &request.snapshot_ids, gone)?;
                }
            }
            driver.backend.delete_group(&id)?;
            tracing::info!(group = %id, "group of snapshots is gone");
            Ok(())
        })
        .await?;
        Ok(Response::new(csi::DeleteVolumeGroupSnapshotResponse {}))
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::GetVolumeGroupSnapshotResponse> {
        let request = request.into_inner();
        let id = SnapshotId::parse(&request.group_snapshot_id)?;
        let group = call(&self.0, Vec::new(), move |driver| {
            let group = find(driver, &id)?;
            is_of(&group, &request.snapshot_ids, |_| false).map(|()| wire(group))
        });
        Ok(Response::new(csi::GetVolumeGroupSnapshotResponse { group_snapshot: Some(group.await?) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Snapshot;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_removal_is_repeated_with_the_list_of_before() {
        let id = |id: &str| SnapshotId::parse(id).unwrap();
        let snapshot = |name: &str| Snapshot {
            id: id(name),
            source: VolumeId::parse("v").unwrap(),
            bytes: 1,
            created: UNIX_EPOCH,
            group: Some(id("g")),
        };
        let group = Group { id: id("g"), created: UNIX_EPOCH, snapshots: vec![snapshot("a"), snapshot("b")] };
        for (listed, exact, removal) in [
            (&[][..], true, true),
            (&["b", "a"], true, true),
            (&["a", "b", "gone"], false, true),
            (&["a"], false, false),
            (&["gone"], false, false),
            (&["a", "other"], false, false),
        ] {
            let listed: Vec<String> = listed.iter().map(|id| (*id).to_owned()).collect();
            assert_eq!(is_of(&group, &listed, |_| false).is_ok(), exact, "{listed:?}");
            assert_eq!(is_of(&group, &listed, |id| id == "gone").is_ok(), removal, "{listed:?}");
        }
    }
}
