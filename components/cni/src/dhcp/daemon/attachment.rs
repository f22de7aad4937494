//! A pod's interface and the leases that it has, or is to have.

use super::records::{Record, RecordedLease};
use crate::{
    dhcp::{
        client::{Change, Client, Moment, Patience, Step, To},
        config::DhcpConfig,
        terms::{Family, Identity},
        wire::{LARGEST, Server4, Wire},
    },
    interface,
    netlink::link::Mac,
    netns::NetNs,
    protocol::{
        error::{CniError, Code},
        request::{self, Request},
        result::{CniResult, IpConfig},
    },
};
use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    net::IpAddr,
    path::PathBuf,
};

/// The longest client identifier: RFC 2132 has one byte for its length, and one is for its type.
const LONGEST_CLIENT: usize = 254;

/// Which interface of which pod in which network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) network: String,
    pub(super) attachment: request::Attachment,
}

impl Name {
    pub(super) fn of(request: &Request) -> Self {
        Self { network: request.network.clone(), attachment: request.attachment.clone() }
    }

    /// As servers and logs are told, the reference plugin's way.
    pub(super) fn client(&self) -> String {
        let request::Attachment { container_id, ifname } = &self.attachment;
        let mut client = format!("{container_id}/{}/{ifname}", self.network);
        // All of it is ASCII, which the request's check has seen to.
        client.truncate(LONGEST_CLIENT);
        client
    }
}

/// Where the interface is. The namespace is opened anew each time: holding it open would keep it from ending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) netns: PathBuf,
    /// Device and inode: a path may come to name another namespace.
    pub(super) namespace: (u64, u64),
    pub(super) ifname: String,
}

impl Place {
    fn open(&self) -> Result<NetNs, CniError> {
        let netns = NetNs::required(&self.netns)?;
        if netns.identity().ok() == Some(self.namespace) {
            return Ok(netns);
        }
        Err(CniError::new(Code::InvalidNetNs, format!("{} is another namespace now", self.netns.display())))
    }
}

#[derive(Debug)]
struct Member {
    client: Client,
    wire: Option<Wire>,
    /// Hardware address that the server's last answer came from.
    server: Option<Mac>,
    /// Why nothing could be sent, last time.
    trouble: Option<String>,
}

/// A lease could not be had, or is had no longer.
#[derive(Debug)]
pub(super) struct Lost {
    /// Which of the attachment's.
    pub(super) at: usize,
    /// Why.
    pub(super) why: String,
}

/// One attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) name: Name,
    place: Place,
    priority: Option<u32>,
    members: Vec<Member>,
}

fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Attachment {
    /// Begins to look for leases.
    pub(super) fn acquire(
        request: &Request,
        config: &DhcpConfig,
        netns: PathBuf,
        broadcast: bool,
        patience: Patience,
        now: Moment,
    ) -> Result<Self, CniError> {
        let name = Name::of(request);
        let open = NetNs::required(&netns)?;
        let ifname = name.attachment.ifname.clone();
        let mac = open.enter(|| interface::find(&mut interface::open()?, &ifname))?.mac;
        let namespace = open.identity().map_err(|e| CniError::io("looking at", &netns, &e))?;
        let identity = Identity { mac, client: name.client(), options: config.options.clone(), broadcast };
        let begin = |family: &Family| Member {
            client: Client::acquire(*family, identity.clone(), patience, now, chance()),
            wire: None,
            server: None,
            trouble: None,
        };
        let members = config.families.iter().map(begin).collect();
        Ok(Self { place: Place { netns, namespace, ifname }, name, priority: config.priority, members })
    }

    /// Takes up what was recorded.
    pub(super) fn resume(record: Record, patience: Patience, now: Moment) -> Self {
        let members = record.leases.into_iter().map(|recorded| {
            let RecordedLease { family, identity, lease, server } = recorded;
            let client = Client::resume(family, identity, patience, lease, now, chance());
            Member { client, wire: None, server, trouble: None }
        });
        let ifname = record.attachment.ifname.clone();
        Self {
            members: members.collect(),
            place: Place { netns: record.netns, namespace: record.namespace, ifname },
            name: Name { network: record.network, attachment: record.attachment },
            priority: record.priority,
        }
    }

    /// What is to be kept on disk.
    pub(super) fn record(&self) -> Record {
        let leases = self.members.iter().filter_map(|member| {
            Some(RecordedLease {
                family: member.client.family(),
                identity: member.client.identity().clone(),
                lease: member.client.lease()?.clone(),
                server: member.server,
            })
        });
        Record {
            network: self.name.network.clone(),
            attachment: self.name.attachment.clone(),
            netns: self.place.netns.clone(),
            namespace: self.place.namespace,
            priority: self.priority,
            leases: leases.collect(),
        }
    }

    /// Whether every lease is there.
    pub(super) fn is_complete(&self) -> bool {
        self.members.iter().all(|member| member.client.lease().is_some())
    }

    /// Addresses and routes.
    pub(super) fn result(&self) -> CniResult {
        let mut result = CniResult::default();
        for terms in self.members.iter().filter_map(|member| Some(&member.client.lease()?.terms)) {
            let (address, gateway) = (terms.address, terms.gateway);
            result.ips.push(IpConfig { version: None, interface: None, address, gateway });
            result.routes.extend(terms.routes.iter().cloned());
        }
        for route in &mut result.routes {
            route.priority = self.priority;
        }
        result
    }

    /// The interface is still there.
    pub(super) fn check(&self) -> Result<(), CniError> {
        self.place.open()?.enter(|| interface::find(&mut interface::open()?, &self.place.ifname)).map(drop)
    }

    /// Sends what is to be sent now. When to come again.
    pub(super) fn work(&mut self, now: Moment) -> Result<Moment, Lost> {
        let mut next = Moment::MAX;
        for (at, member) in self.members.iter_mut().enumerate() {
            next = next.min(member.work(&self.place, now).map_err(|why| Lost { at, why })?);
        }
        Ok(next)
    }

    /// The sockets on which answers are awaited.
    pub(super) fn wires(&self) -> impl Iterator<Item = &Wire> {
        self.members.iter().filter_map(|member| member.wire.as_ref())
    }

    /// Takes all that has come in. Whether a lease was granted.
    pub(super) fn receive(&mut self, now: Moment) -> bool {
        let mut granted = false;
        for member in &mut self.members {
            granted |= member.receive(now);
        }
        granted
    }

    /// Gives all leases back.
    pub(super) fn release(&mut self, now: Moment) {
        for member in &mut self.members {
            if let Err(error) = member.release(&self.place, now) {
                eprintln!("{}: not given back: {error}", member.client);
            }
        }
    }

    /// A lease is lost: its address goes from the interface. With the last one the interface is brought down, as the
    /// reference does. Whether there is a lease left.
    pub(super) fn withdraw(&mut self, at: usize) -> Result<bool, CniError> {
        let member = self.members.remove(at);
        let left = !self.members.is_empty();
        let ifname = &self.place.ifname;
        self.place.open()?.enter(|| {
            let mut route = interface::open()?;
            let link = interface::find(&mut route, ifname)?;
            match member.client.lease() {
                Some(lease) if left => route
                    .delete_address(link.index, lease.terms.address)
                    .map_err(|e| e.during(format_args!("removing {} from {ifname:?}", lease.terms.address))),
                _ => route
                    .set_up(link.index, false)
                    .map_err(|e| e.during(format_args!("bringing {ifname:?} down"))),
            }
        })?;
        Ok(left)
    }
}

impl Member {
    /// Sends what is to be sent now. When to come again, or why there is no lease (any more).
    fn work(&mut self, place: &Place, now: Moment) -> Result<Moment, String> {
        loop {
            match self.client.step(now) {
                Step::Wait(until) => {
                    if !self.client.is_talking() {
                        self.wire = None;
                    }
                    return Ok(until);
                }
                Step::Send(to, message) => match self.send(place, to, &message) {
                    Ok(()) => self.trouble = None,
                    // The interface may yet come up; if not, this is why.
                    Err(error) => {
                        self.client.not_sent(now);
                        self.trouble = Some(error.message);
                    }
                },
                Step::Lost(why) => return Err(self.trouble.take().unwrap_or(why)),
            }
        }
    }

    fn send(&mut self, place: &Place, to: To, message: &[u8]) -> Result<(), CniError> {
        let wire = match self.wire.take() {
            Some(wire) => wire,
            None => Wire::open(self.client.family(), &place.open()?, &place.ifname)?,
        };
        let lease = self.client.lease().map(|lease| &lease.terms);
        let source = match lease.map(|terms| terms.address.address) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        let address = lease.and_then(|terms| <[u8; 4]>::try_from(terms.server.as_slice()).ok());
        let server = match (to, self.server, address) {
            (To::Server, Some(mac), Some(address)) => Some(Server4 { mac, address: address.into() }),
            _ => None,
        };
        let sent = wire.send(message, source, server).map_err(|e| {
            CniError::new(Code::Io, format!("sending a DHCP message from {:?}: {e}", place.ifname))
        });
        self.wire = sent.is_ok().then_some(wire);
        sent
    }

    fn receive(&mut self, now: Moment) -> bool {
        let Some(wire) = &self.wire else { return false };
        let mut buffer = [0; LARGEST];
        let mut granted = false;
        loop {
            match wire.receive(&mut buffer) {
                Ok(Some((message, from))) => {
                    if self.client.receive(message, now) == Change::Granted {
                        granted = true;
                        self.server = from;
                    }
                }
                Ok(None) => return granted,
                // The interface is down or gone: what is sent next tries to open it anew.
                Err(_) => {
                    self.wire = None;
                    return granted;
                }
            }
        }
    }

    fn release(&mut self, place: &Place, now: Moment) -> Result<(), CniError> {
        match self.client.release(now) {
            Some(message) => self.send(place, To::Server, &message),
            None => Ok(()),
        }
    }
}
