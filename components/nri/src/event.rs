//! What plugins can be told, and what each is called on the wire.

use crate::api::Event;

/// The service that plugins have.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that the runtime has.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

impl Event {
    /// The method of [`PLUGIN_SERVICE`] that tells it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::RunPodSandbox => "RunPodSandbox",
            Self::StopPodSandbox => "StopPodSandbox",
            Self::RemovePodSandbox => "RemovePodSandbox",
            Self::CreateContainer => "CreateContainer",
            Self::PostCreateContainer => "PostCreateContainer",
            Self::StartContainer => "StartContainer",
            Self::PostStartContainer => "PostStartContainer",
            Self::UpdateContainer => "UpdateContainer",
            Self::PostUpdateContainer => "PostUpdateContainer",
            Self::StopContainer => "StopContainer",
            Self::RemoveContainer => "RemoveContainer",
            Self::UpdatePodSandbox => "UpdatePodSandbox",
            Self::PostUpdatePodSandbox => "PostUpdatePodSandbox",
            Self::ValidateContainerAdjustment => "ValidateContainerAdjustment",
        }
    }

    /// Plugins from before NRI 0.10 may have no method of its own for it, and are told by StateChange.
    pub(crate) fn had_no_method(self) -> bool {
        !matches!(
            self,
            Self::CreateContainer
                | Self::UpdateContainer
                | Self::StopContainer
                | Self::UpdatePodSandbox
                | Self::ValidateContainerAdjustment
        )
    }

    fn bit(self) -> u32 {
        match self as i32 {
            number @ 1.. => 1 << (number - 1),
            _ => 0,
        }
    }
}

/// A set of events: what a plugin subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// Every event there is.
    pub const ALL: Self = Self((1 << Event::ValidateContainerAdjustment as u32) - 1);

    /// What a plugin's answer to Configure means; none at all stands for all.
    ///
    /// # Errors
    /// The bits that are no event.
    pub fn subscribed(mask: i32) -> Result<Self, u32> {
        match mask.cast_unsigned() {
            0 => Ok(Self::ALL),
            mask if mask & !Self::ALL.0 != 0 => Err(mask & !Self::ALL.0),
            mask => Ok(Self(mask)),
        }
    }

    /// These events.
    pub fn of(events: &[Event]) -> Self {
        Self(events.iter().fold(0, |mask, event| mask | event.bit()))
    }

    /// As they travel.
    pub fn mask(self) -> i32 {
        self.0.cast_signed()
    }

    /// Whether an event is among them.
    pub fn contains(self, event: Event) -> bool {
        self.0 & event.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_a_bit_for_each_event() {
        let events = Events::subscribed(0b1001).unwrap();
        assert!(events.contains(Event::RunPodSandbox) && events.contains(Event::CreateContainer));
        assert!(!events.contains(Event::StopPodSandbox) && !events.contains(Event::Unknown));
        assert_eq!(Events::of(&[Event::RunPodSandbox, Event::CreateContainer]), events);
        assert_eq!(Events::subscribed(0), Ok(Events::ALL));
        assert!(Events::ALL.contains(Event::ValidateContainerAdjustment));
        assert_eq!(Events::subscribed(1 << 14), Err(1 << 14));
    }
}
