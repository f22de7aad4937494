//! One volume, and what a provisioner and a kubelet do with it.

use crate::{
    guest::{
        Guest,
        host::Host,
        pod::{Container, Pod},
        volume::{Claim, Driver, Volume},
    },
    image::root::Probe,
    pace::Pace,
    scenario::{Stop, check},
};
use cairn_contract::paths::KUBELET_STATE;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Pods that a volume is published for, one after the other.
const PODS: [&str; 2] = ["first", "second"];
/// How long a call is repeated for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between a call that failed and the next; the kubelet begins with half a second.
const PAUSE: Duration = Duration::from_millis(500);
/// In every volume.
const MARK: &str = "mark";

/// A small generator (splitmix64): a run is repeated by its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(super) fn fork(&mut self) -> Self {
        Self(self.below(u64::MAX))
    }

    pub(super) fn choose<T>(&mut self, mut from: Vec<T>) -> Option<T> {
        let count = u64::try_from(from.len()).unwrap_or_default().max(1);
        let at = usize::try_from(self.below(count)).unwrap_or_default();
        (at < from.len()).then(|| from.swap_remove(at))
    }
}

/// The kubelet's place on the node: it makes directories, and sees what is mounted in them.
pub(super) struct Kubelet {
    host: Host,
    pod: Pod,
    container: Container,
    program: String,
}

impl Kubelet {
    /// Before the first volume: a pod would hold on to what is mounted when it starts.
    pub(super) async fn start(guest: &Guest, probe: &Probe) -> Result<Self, Stop> {
        let host = Host::look(guest, probe).await?;
        let pod = guest.pod("kubelet").on_host().run().await?;
        let container = pod.container("main", &probe.reference).args(["pause"]);
        let container = container.mount_shared(KUBELET_STATE, KUBELET_STATE).privileged().start().await?;
        Ok(Self { host, pod, container, program: probe.program() })
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    async fn write(&self, path: &str, text: &str) -> Result<(), Stop> {
        self.container.exec(&[&self.program, "write", path, text]).await?.success().map(drop)
    }

    /// A file, if it is there.
    async fn read(&self, path: &str) -> Result<Option<String>, Stop> {
        let output = self.container.exec(&[self.program.as_str(), "cat", path]).await?;
        if output.stderr.contains("ENOENT") {
            return Ok(None);
        }
        output.success().map(Some)
    }

    pub(super) async fn leave(self) -> Result<(), Stop> {
        self.pod.remove().await?;
        self.host.leave().await
    }
}

/// How far a volume is on its way into a pod, as its last call that succeeded has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nowhere,
    Made,
    Staged,
    Published,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Create,
    Delete,
    Stage,
    Unstage,
    Publish,
    Unpublish,
    Expand,
    Stats,
}

impl Call {
    /// Where a volume is after it.
    fn leads_to(self, from: Stage) -> Stage {
        match self {
            Self::Create | Self::Unstage => Stage::Made,
            Self::Delete => Stage::Nowhere,
            Self::Stage | Self::Unpublish => Stage::Staged,
            Self::Publish => Stage::Published,
            Self::Expand | Self::Stats => from,
        }
    }

    /// What takes it back, if it did not succeed and is not wanted any more.
    fn back(self) -> Option<Self> {
        match self {
            Self::Stage => Some(Self::Unstage),
            Self::Unstage => Some(Self::Stage),
            Self::Publish => Some(Self::Unpublish),
            _ => None,
        }
    }
}

/// A volume and what is known of it.
pub(super) struct Held {
    name: &'static str,
    driver: Driver,
    origin: Origin,
    /// What it is while it is there.
    volume: Option<Volume>,
    stage: Stage,
    /// A call whose end nobody heard, or that was refused.
    doubt: Option<Call>,
    pod: &'static str,
    size: i64,
    /// What was last written into it.
    mark: Option<u64>,
    random: Random,
    began: Instant,
    log: Vec<String>,
    /// Calls made.
    pub(super) calls: u32,
    /// Calls that were in flight when the driver was killed.
    pub(super) cut: u32,
    /// Calls that the driver refused.
    pub(super) refused: u32,
}

/// Who makes it.
enum Origin {
    /// The driver, by a claim.
    Claim(Claim),
    /// The target: a unit's number.
    Unit(u32),
}

impl Held {
    /// One that the driver makes and removes.
    pub(super) fn of_a_claim(name: &'static str, driver: Driver, claim: Claim, random: Random) -> Self {
        Self::new(name, driver, Origin::Claim(claim), None, random)
    }

    /// One that is there.
    pub(super) fn of_a_unit(
        name: &'static str,
        driver: Driver,
        volume: Volume,
        unit: u32,
        random: Random,
    ) -> Self {
        Self::new(name, driver, Origin::Unit(unit), Some(volume), random)
    }

    fn new(
        name: &'static str,
        driver: Driver,
        origin: Origin,
        volume: Option<Volume>,
        random: Random,
    ) -> Self {
        Self {
            name,
            driver,
            origin,
            stage: if volume.is_some() { Stage::Made } else { Stage::Nowhere },
            size: volume.as_ref().map_or(0, |volume| volume.size),
            volume,
            doubt: None,
            pod: PODS[0],
            mark: None,
            random,
            began: Instant::now(),
            log: Vec::new(),
            calls: 0,
            cut: 0,
            refused: 0,
        }
    }

    /// Its unit's number.
    pub(super) fn unit(&self) -> Option<u32> {
        match self.origin {
            Origin::Claim(_) => None,
            Origin::Unit(unit) => Some(unit),
        }
    }

    /// The same, if a pod has it.
    pub(super) fn published_unit(&self) -> Option<u32> {
        self.unit().filter(|_| self.stage == Stage::Published)
    }

    /// Its unit has zeros alone.
    pub(super) fn is_blank(&mut self) {
        self.mark = None;
    }

    /// Its unit becomes larger; its new size.
    pub(super) fn grows_by(&mut self, more: i64) -> i64 {
        self.size += more;
        self.size
    }

    /// What was done with it, a line each.
    pub(super) fn log(&self) -> impl Iterator<Item = String> {
        self.log.iter().map(|line| format!("{} {line}\n", self.name))
    }

    /// Goes its way until the driver was killed.
    pub(super) async fn work(&mut self, kubelet: &Kubelet, killed: &AtomicBool) -> Result<(), Stop> {
        while !killed.load(Ordering::Relaxed) {
            if self.stage == Stage::Published && self.doubt.is_none() && self.random.below(4) == 0 {
                self.write(kubelet).await?;
            }
            let call = self.next();
            if self.call(call, kubelet).await?.is_err() {
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Repeats what did not succeed, or takes it back, until that does; then looks what is in it.
    pub(super) async fn settle(&mut self, kubelet: &Kubelet, pace: Pace) -> Result<(), Stop> {
        let deadline = pace.deadline(PATIENCE);
        while self.doubt.is_some() {
            let call = self.next();
            if let Err(refusal) = self.call(call, kubelet).await? {
                check(deadline.is_open(), || format!("{}: does not succeed: {refusal}", self.name))?;
                sleep(PAUSE).await;
            }
        }
        if self.stage == Stage::Published { self.look(kubelet).await } else { Ok(()) }
    }

    /// Takes it from its pod and the node, and removes it if the driver made it.
    pub(super) async fn wind_down(&mut self, kubelet: &Kubelet, pace: Pace) -> Result<(), Stop> {
        self.settle(kubelet, pace).await?;
        let deadline = pace.deadline(PATIENCE);
        loop {
            let call = match (self.stage, &self.origin) {
                (Stage::Published, _) => Call::Unpublish,
                (Stage::Staged, _) => Call::Unstage,
                (Stage::Made, Origin::Claim(_)) => Call::Delete,
                (Stage::Made, Origin::Unit(_)) | (Stage::Nowhere, _) => return Ok(()),
            };
            if let Err(refusal) = self.call(call, kubelet).await? {
                check(deadline.is_open(), || format!("{}: does not end: {refusal}", self.name))?;
                sleep(PAUSE).await;
            }
        }
    }

    fn next(&mut self) -> Call {
        let dice = self.random.below(6);
        if let Some(call) = self.doubt {
            return call.back().filter(|_| dice < 3).unwrap_or(call);
        }
        match (self.stage, &self.origin) {
            (Stage::Nowhere, _) => Call::Create,
            (Stage::Made, Origin::Claim(_)) if dice < 2 => Call::Delete,
            (Stage::Made, _) => Call::Stage,
            (Stage::Staged, _) if dice < 3 => Call::Unstage,
            (Stage::Staged, _) => {
                self.pod = PODS[usize::from(self.random.below(2) == 1)];
                Call::Publish
            }
            (Stage::Published, _) if dice < 3 => Call::Unpublish,
            (Stage::Published, Origin::Unit(_)) if dice < 5 => Call::Expand,
            (Stage::Published, _) => Call::Stats,
        }
    }

    /// Makes a call. The outer result is the scenario's, the inner one the driver's.
    async fn call(&mut self, call: Call, kubelet: &Kubelet) -> Result<Result<(), String>, Stop> {
        let from = self.began.elapsed().as_secs_f64();
        let done = self.send(call, kubelet).await;
        self.calls += 1;
        let answer = match done {
            Ok(()) => Ok(()),
            Err(Stop::Failed(refusal)) => Err(refusal),
            Err(stop) => return Err(stop),
        };
        let to = self.began.elapsed().as_secs_f64();
        self.log.push(format!("{from:.3} {to:.3} {call:?} {answer:?}"));
        match &answer {
            Ok(()) => {
                self.doubt = None;
                self.stage = call.leads_to(self.stage);
                match call {
                    Call::Delete => (self.volume, self.mark) = (None, None),
                    Call::Publish => self.look(kubelet).await?,
                    _ => {}
                }
            }
            Err(refusal) => {
                self.doubt = Some(call);
                if refusal.contains("transport error") {
                    self.cut += 1;
                } else if !refusal.contains("cannot connect") {
                    self.refused += 1;
                }
            }
        }
        Ok(answer)
    }

    async fn send(&mut self, call: Call, kubelet: &Kubelet) -> Result<(), Stop> {
        let (host, pod) = (kubelet.host(), self.pod);
        match (call, &self.volume, &self.origin) {
            (Call::Create, _, Origin::Claim(claim)) => {
                self.volume = Some(self.driver.provision(claim.clone()).await?);
                Ok(())
            }
            (Call::Delete, Some(volume), _) => volume.delete().await,
            (Call::Stage, Some(volume), _) => volume.stage(host).await,
            (Call::Unstage, Some(volume), _) => volume.unstage().await,
            (Call::Publish, Some(volume), _) => volume.publish(host, pod).await.map(drop),
            (Call::Unpublish, Some(volume), _) => volume.unpublish(pod).await,
            (Call::Stats, Some(volume), _) => volume.stats(pod).await.map(drop),
            (Call::Expand, Some(volume), _) => {
                let size = volume.expand_on_node(pod, self.size).await?;
                check(size >= self.size, || format!("grown to {size} bytes, not {}", self.size))
            }
            (_, None, _) | (Call::Create, _, Origin::Unit(_)) => Ok(()),
        }
    }

    async fn write(&mut self, kubelet: &Kubelet) -> Result<(), Stop> {
        let Some(path) = self.mark_path() else { return Ok(()) };
        let mark = self.random.below(u64::MAX);
        kubelet.write(&path, &mark.to_string()).await.map_err(|stop| stop.while_trying(self.name))?;
        self.mark = Some(mark);
        self.log.push(format!("{:.3} wrote {mark}", self.began.elapsed().as_secs_f64()));
        Ok(())
    }

    /// It has what was written into it, and nothing of another's.
    async fn look(&self, kubelet: &Kubelet) -> Result<(), Stop> {
        let Some(path) = self.mark_path() else { return Ok(()) };
        let found = kubelet.read(&path).await.map_err(|stop| stop.while_trying(self.name))?;
        let wanted = self.mark.map(|mark| mark.to_string());
        check(found == wanted, || format!("{}: {found:?} is in it, not {wanted:?}", self.name))
    }

    fn mark_path(&self) -> Option<String> {
        Some(format!("{}/{MARK}", self.volume.as_ref()?.target_path(self.pod)))
    }
}
