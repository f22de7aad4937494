//! rtnetlink: virtual functions of a network card (SR-IOV), set and read through their physical function
//! (linux/if_link.h, `IFLA_VFINFO_LIST`).

use super::{
    codec::{Message, attribute, attributes, read_u32},
    link::{Mac, link_header},
    route::RouteSocket,
    socket::NetlinkError,
};
use serde::{Deserialize, Serialize};

const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_VF: u32 = 1;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;

/// Settings of a virtual function; `None` is not set, or not told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VfSettings {
    /// Hardware address, as text in records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Tag of all its frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VfVlan>,
    /// Frames under another hardware address are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spoof_check: Option<bool>,
    /// It may do what concerns others: promiscuous mode, other addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<bool>,
    /// Mbit/s it may send at least and at most; 0 is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<(u32, u32)>,
    /// `IFLA_VF_LINK_STATE_*`: 0 as the physical function, 1 up, 2 down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_state: Option<u32>,
}

/// Tag of a virtual function's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfVlan {
    /// 0 is none.
    pub id: u16,
    /// Priority, 0 to 7.
    pub qos: u8,
    /// Ethertype of the tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub protocol: u16,
}

type Result<T> = std::result::Result<T, NetlinkError>;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn set_message(physical: u32, vf: u32, settings: &VfSettings) -> Message {
    Message::new(RTM_SETLINK, 0, &link_header(physical, 0, 0)).nest(IFLA_VFINFO_LIST, |list| {
        list.nest(IFLA_VF_INFO, |mut info| {
            if let Some(mac) = settings.mac.as_deref().and_then(|mac| mac.parse::<Mac>().ok()) {
                // `struct ifla_vf_mac`: room for 32 bytes of address.
                let mut bytes = words(&[vf, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes[4..10].copy_from_slice(&mac.0);
                info = info.with(IFLA_VF_MAC, &bytes);
            }
            if let Some(vlan) = settings.vlan {
                // `struct ifla_vf_vlan_info`: the protocol is in network order, and padded.
                let mut bytes = words(&[vf, vlan.id.into(), vlan.qos.into(), 0]);
                bytes[12..14].copy_from_slice(&vlan.protocol.to_be_bytes());
                info = info.nest(IFLA_VF_VLAN_LIST, |list| list.with(IFLA_VF_VLAN_INFO, &bytes));
            }
            let rate = settings.rate.map(|(min, max)| words(&[vf, min, max]));
            let one = |setting: Option<u32>| setting.map(|setting| words(&[vf, setting]));
            for (kind, bytes) in [
                (IFLA_VF_SPOOFCHK, one(settings.spoof_check.map(u32::from))),
                (IFLA_VF_TRUST, one(settings.trust.map(u32::from))),
                (IFLA_VF_LINK_STATE, one(settings.link_state)),
                (IFLA_VF_RATE, rate),
            ] {
                if let Some(bytes) = bytes {
                    info = info.with(kind, &bytes);
                }
            }
            info
        })
    })
}

impl RouteSocket {
    /// Sets what is given of virtual function number `vf` of the link `physical`.
    pub fn set_vf(&mut self, physical: u32, vf: u32, settings: &VfSettings) -> Result<()> {
        self.0.execute(set_message(physical, vf, settings))
    }

    /// Settings of virtual function number `vf`; `None` if there is no such.
    pub fn vf(&mut self, physical: u32, vf: u32) -> Result<Option<VfSettings>> {
        let message = Message::new(RTM_GETLINK, 0, &link_header(physical, 0, 0))
            .with_u32(IFLA_EXT_MASK, RTEXT_FILTER_VF);
        let answer = self.0.get(message)?;
        Ok(parse(answer.get(16..).ok_or(NetlinkError::Malformed)?, vf))
    }
}

fn parse(link: &[u8], vf: u32) -> Option<VfSettings> {
    let list = attribute(link, IFLA_VFINFO_LIST)?;
    let number = |info: &[u8]| attribute(info, IFLA_VF_MAC).and_then(read_u32);
    let info = attributes(list).map(|(_, info)| info).find(|info| number(info) == Some(vf))?;
    let word = |kind, at: usize| attribute(info, kind).and_then(|value| read_u32(value.get(at..)?));
    let mac = attribute(info, IFLA_VF_MAC).and_then(|value| value.get(4..10)?.try_into().ok());
    let tagged = attribute(info, IFLA_VF_VLAN_LIST)
        .and_then(|list| attribute(list, IFLA_VF_VLAN_INFO))
        .or_else(|| attribute(info, IFLA_VF_VLAN));
    let vlan = tagged.and_then(|value| {
        let protocol = value.get(12..14).and_then(|p| p.try_into().ok()).map(u16::from_be_bytes);
        Some(VfVlan {
            id: read_u32(value.get(4..)?)? as u16,
            qos: read_u32(value.get(8..)?)? as u8,
            protocol: protocol.filter(|p| *p != 0).unwrap_or(0x8100),
        })
    });
    // A driver that cannot say answers with all ones.
    let flag = |kind| word(kind, 4).filter(|setting| *setting <= 1).map(|setting| setting == 1);
    Some(VfSettings {
        mac: mac.map(|bytes| Mac(bytes).to_string()),
        vlan,
        spoof_check: flag(IFLA_VF_SPOOFCHK),
        trust: flag(IFLA_VF_TRUST),
        rate: word(IFLA_VF_RATE, 4).zip(word(IFLA_VF_RATE, 8)),
        link_state: word(IFLA_VF_LINK_STATE, 4),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> VfSettings {
        VfSettings {
            mac: Some("02:00:00:00:00:09".into()),
            vlan: Some(VfVlan { id: 100, qos: 3, protocol: 0x88a8 }),
            spoof_check: Some(true),
            trust: Some(false),
            rate: Some((10, 1000)),
            link_state: Some(1),
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_bytes_are_those_of_the_kernels_structures() {
        let only = VfSettings {
            vlan: Some(VfVlan { id: 100, qos: 3, protocol: 0x88a8 }),
            trust: Some(true),
            ..VfSettings::default()
        };
        let bytes = set_message(7, 2, &only).finish(1, 0);
        let expected: Vec<u8> = [
            &[76, 0, 0, 0, 19, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], // nlmsghdr: RTM_SETLINK, NLM_F_REQUEST
            &[0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],       // ifinfomsg: link 7
            &[44, 0, 22, 0x80, 40, 0, 1, 0x80],                      // IFLA_VFINFO_LIST { IFLA_VF_INFO {
            &[24, 0, 12, 0x80, 20, 0, 1, 0],                         // IFLA_VF_VLAN_LIST { IFLA_VF_VLAN_INFO
            &[2, 0, 0, 0, 100, 0, 0, 0, 3, 0, 0, 0, 0x88, 0xa8, 0, 0],
            &[12, 0, 9, 0, 2, 0, 0, 0, 1, 0, 0, 0], // IFLA_VF_TRUST
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_set_reads_back_for_its_function_only() {
        let bytes = set_message(7, 2, &sample()).finish(1, 0);
        assert_eq!(parse(&bytes[32..], 2), Some(sample()));
        assert_eq!(parse(&bytes[32..], 3), None);
        assert_eq!(parse(&[], 2), None);
    }
}
