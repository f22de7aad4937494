use super::*;
use crate::api::{
    CdiDevice, ChangeResponse, Hook, LinuxContainerUpdate, LinuxCpu, LinuxMemory, LinuxResources, Mount,
    OptionalInt, OptionalInt64, OptionalString, OptionalUInt64, PosixRlimit,
};

fn creation() -> Creation {
    let container = Container {
        id: "c".into(),
        env: vec!["A=1".into(), "B=1".into()],
        args: vec!["run".into()],
        mounts: vec![Mount { destination: "/old".into(), ..Default::default() }],
        ..Default::default()
    };
    Creation::new(PodSandbox { id: "p".into(), ..Default::default() }, container)
}

fn adjusting(adjust: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse { adjust: Some(adjust), ..Default::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn limit(bytes: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: bytes }), ..Default::default() };
    LinuxResources { memory: Some(memory), ..Default::default() }
}

fn update(container: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
    ContainerUpdate { container_id: container.into(), linux, ignore_failure }
}

#[test]
fn a_plugin_sees_what_the_ones_before_it_want() {
    let mut creation = creation();
    let first = ContainerAdjustment {
        env: vec![variable("-B", ""), variable("C", "1")],
        mounts: vec![Mount { destination: "-/old".into(), ..Default::default() }],
        annotations: [("a".to_owned(), "1".to_owned())].into(),
        args: vec!["wrapped".into()],
        linux: Some(LinuxContainerAdjustment { resources: Some(limit(7)), ..Default::default() }),
        ..Default::default()
    };
    creation.apply("00-a", adjusting(first)).unwrap();
    let shown = creation.request.container.as_ref().unwrap();
    assert_eq!(shown.env, ["A=1", "C=1"]);
    assert!(shown.mounts.is_empty());
    assert_eq!((shown.annotations["a"].as_str(), shown.args.as_slice()), ("1", &["wrapped".to_owned()][..]));
    assert_eq!(shown.linux.as_ref().unwrap().resources, Some(limit(7)));
    let created = creation.finish();
    assert_eq!(created.adjust.env, [variable("-B", ""), variable("C", "1")]);
    assert_eq!(created.adjust.linux.unwrap().resources, Some(limit(7)));
}

/// Every kind of thing that one plugin can set is one that two cannot.
#[test]
fn two_plugins_cannot_set_the_same() {
    let linux = |linux| ContainerAdjustment { linux: Some(linux), ..Default::default() };
    let resources =
        |resources| linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() });
    let shares = LinuxCpu { shares: Some(OptionalUInt64 { value: 2 }), ..Default::default() };
    let cases = [
        (
            "Annotations a",
            ContainerAdjustment { annotations: [("a".into(), "1".into())].into(), ..Default::default() },
        ),
        ("Env A", ContainerAdjustment { env: vec![variable("A", "2")], ..Default::default() }),
        ("Args", ContainerAdjustment { args: vec!["x".into()], ..Default::default() }),
        (
            "Mounts /m",
            ContainerAdjustment {
                mounts: vec![Mount { destination: "/m".into(), ..Default::default() }],
                ..Default::default()
            },
        ),
        (
            "CdiDevices v/c=d",
            ContainerAdjustment {
                cdi_devices: vec![CdiDevice { name: "v/c=d".into() }],
                ..Default::default()
            },
        ),
        (
            "Rlimits RLIMIT_CORE",
            ContainerAdjustment {
                rlimits: vec![PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 1, soft: 1 }],
                ..Default::default()
            },
        ),
        ("MemLimit", resources(limit(5))),
        ("CPUShares", resources(LinuxResources { cpu: Some(shares), ..Default::default() })),
        (
            "CgroupsUnified memory.high",
            resources(LinuxResources {
                unified: [("memory.high".into(), "1".into())].into(),
                ..Default::default()
            }),
        ),
        (
            "OomScoreAdj",
            linux(LinuxContainerAdjustment {
                oom_score_adj: Some(OptionalInt { value: 0 }),
                ..Default::default()
            }),
        ),
        (
            "Sysctl net.core.somaxconn",
            linux(LinuxContainerAdjustment {
                sysctl: [("net.core.somaxconn".into(), "1".into())].into(),
                ..Default::default()
            }),
        ),
        (
            "RdtClosID",
            linux(LinuxContainerAdjustment {
                rdt: Some(LinuxRdt {
                    clos_id: Some(OptionalString { value: "x".into() }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ),
    ];
    for (what, adjustment) in cases {
        let mut creation = creation();
        creation.apply("00-a", adjusting(adjustment.clone())).unwrap();
        let error = creation.apply("10-b", adjusting(adjustment)).unwrap_err();
        assert_eq!(error.to_string(), format!("plugins 00-a and 10-b both set {what} of container c"));
    }
}

#[test]
fn what_is_cleared_first_may_be_set_again() {
    let mut creation = creation();
    let args = |words: &[&str]| {
        let args = words.iter().map(|&word| word.to_owned()).collect();
        adjusting(ContainerAdjustment { args, ..Default::default() })
    };
    creation.apply("00-a", args(&["first"])).unwrap();
    creation.apply("10-b", args(&["", "second", "x"])).unwrap();
    let hook = |path: &str| Hooks {
        poststop: vec![Hook { path: path.into(), ..Default::default() }],
        ..Default::default()
    };
    for (plugin, path) in [("00-a", "/1"), ("10-b", "/2")] {
        let hooks = Some(hook(path));
        creation.apply(plugin, adjusting(ContainerAdjustment { hooks, ..Default::default() })).unwrap();
    }
    let adjust = creation.finish().adjust;
    assert_eq!(adjust.args, ["second", "x"]);
    let hooks: Vec<String> = adjust.hooks.unwrap().poststop.into_iter().map(|hook| hook.path).collect();
    assert_eq!(hooks, ["/1", "/2"], "hooks are no contradiction");
}

#[test]
fn other_containers_are_updated_once() {
    let mut creation = creation();
    let updating = |update| CreateContainerResponse { update, ..Default::default() };
    creation.apply("00-a", updating(vec![update("d", limit(5), true)])).unwrap();
    // It may fail, so it does.
    creation.apply("10-b", updating(vec![update("d", limit(6), true), update("e", limit(6), true)])).unwrap();
    assert!(creation.apply("20-c", updating(vec![update("d", limit(7), false)])).is_err());
    let premature = creation.apply("30-d", updating(vec![update("c", limit(7), true)])).unwrap_err();
    assert!(matches!(premature, MergeError::Premature { .. }));
    assert_eq!(creation.finish().update, [update("d", limit(5), true), update("e", limit(6), true)]);
}

#[test]
fn an_update_is_laid_over_what_was_asked_for() {
    let container = Container { id: "c".into(), ..Default::default() };
    let mut change = Change::new(PodSandbox::default(), container, Some(limit(5)));
    let response = ChangeResponse {
        update: vec![update("c", limit(6), false), update("d", limit(1), false)],
        evict: vec![ContainerEviction { container_id: "e".into(), reason: String::new() }],
    };
    change.apply("00-a", response).unwrap();
    assert_eq!(change.request.linux_resources, Some(limit(6)), "the next plugin sees it");
    let changes = change.finish();
    assert_eq!((changes.own, changes.update), (Some(limit(6)), vec![update("d", limit(1), false)]));
    assert_eq!(changes.evict.len(), 1);
}
