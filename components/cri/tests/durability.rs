//! What goes wrong with a node's disk and registries: it is said, nothing half-made stays, and afterwards all is well.

#![allow(clippy::unwrap_used)]

mod support;

use cairn_contract::cri;
use rustix::mount::{MountFlags, mount};
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{
    calls::{containers, create, pods, remove_pod, run_pod, start, status, try_create, try_run_pod},
    image::IMAGE,
    node::Node,
    obstacle,
    pods::container,
    registry::{Registry, layer},
    unless,
};
use tonic::Code;

async fn pull(node: &Node, image: &str) -> Result<String, tonic::Status> {
    let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
    let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
    node.images().await.pull_image(request).await.map(|pulled| pulled.into_inner().image_ref)
}

async fn images(node: &Node) -> Vec<String> {
    let all =
        node.images().await.list_images(cri::ListImagesRequest::default()).await.unwrap().into_inner().images;
    let mut names: Vec<String> = all.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names
}

async fn remove_image(node: &Node, image: &str) {
    let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
    node.images().await.remove_image(cri::RemoveImageRequest { image: Some(spec) }).await.unwrap();
}

/// Files and directories below the image store but for its own directories.
fn stored(node: &Node) -> Vec<PathBuf> {
    let store = node.path("state/images");
    let below = walkdir::WalkDir::new(&store).min_depth(2).max_depth(2).into_iter().flatten();
    below.map(|entry| entry.path().strip_prefix(&store).unwrap().to_path_buf()).collect()
}

/// Puts a small file system under the node's state.
fn small_disk(node: &Node, size: &str) {
    let state = node.path("state");
    fs::create_dir(&state).unwrap();
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    mount("small", &state, "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
}

/// Writes a file until there is no space left.
fn fill(path: &Path) {
    let chunk = vec![1; 4096];
    let mut file = fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error_that_passes() {
    unless!(obstacle());
    let mut node = Node::new();
    small_disk(&node, "24m");
    let registry = Registry::new();
    let large = registry.image("large", &[layer("one", 8 << 20), layer("two", 24 << 20)]);
    let small = registry.image("small", &[layer("three", 1 << 20)]);
    let mut client = node.start().await;

    let refused = pull(&node, &large).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("MiB"), "{refused}");
    assert_eq!(images(&node).await, [IMAGE]);
    // A complete layer may stay for the next attempt; it goes when there is a reason to look.
    pull(&node, &small).await.unwrap();
    remove_image(&node, &small).await;
    assert_eq!(stored(&node), Vec::<PathBuf>::new(), "{}", node.log());

    // Not a byte is left: no pod and no container can be recorded, so there is none.
    let pod = run_pod(&mut client, node.pod("before")).await;
    fill(&node.path("state/fill"));
    let refused = try_run_pod(&mut client, node.pod("during")).await.unwrap_err();
    assert!(refused.message().contains("No space left"), "{refused}");
    let refused = try_create(&mut client, &pod, container("during", "true")).await.unwrap_err();
    assert!(refused.message().contains("No space left"), "{refused}");
    let refused = pull(&node, &small).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(pods(&mut client).await.iter().map(|item| &item.id).collect::<Vec<_>>(), [&pod]);
    // A pod can be removed all the same, and the daemon can be started.
    node.kill();
    client = node.start().await;
    remove_pod(&mut client, &pod).await;

    fs::remove_file(node.path("state/fill")).unwrap();
    let pod = run_pod(&mut client, node.pod("after")).await;
    let id = create(&mut client, &pod, container("after", "true")).await;
    start(&mut client, &id).await;
    pull(&node, &small).await.unwrap();
    remove_image(&node, &small).await;
    remove_pod(&mut client, &pod).await;
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_pull_leaves_nothing_half_made_and_is_done_again() {
    unless!(obstacle());
    let mut node = Node::new();
    let registry = Registry::new();
    let image = registry.image("app", &[layer("one", 2 << 20), layer("two", 3 << 20)]);
    let _client = node.start().await;
    registry.hold();
    let pulling = {
        let mut images = node.images().await;
        let spec = cri::ImageSpec { image: image.clone(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
        tokio::spawn(async move { images.pull_image(request).await })
    };
    tokio::task::block_in_place(|| registry.held(2));
    assert!(node.leaks().iter().any(|found| found.contains("ingest")), "the layers are on their way");
    node.kill();
    assert!(pulling.await.unwrap().is_err());
    registry.release();
    let _client = node.start().await;
    assert_eq!(node.leaks(), Vec::<String>::new());
    assert_eq!(stored(&node), Vec::<PathBuf>::new());
    let id = pull(&node, &image).await.unwrap();
    assert!(images(&node).await.contains(&image), "{id}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_registry_is_an_error_that_passes() {
    unless!(obstacle());
    let mut node = Node::new();
    node.config.pull_progress_timeout_seconds = 2;
    let _client = node.start().await;
    let registry = Registry::new();
    let image = registry.image("app", &[layer("one", 1 << 20)]);
    let absent = format!("{}/absent:1", registry.address);
    assert_eq!(pull(&node, &absent).await.unwrap_err().code(), Code::NotFound);
    let dead = "127.0.0.1:1/app:1";
    let refused = pull(&node, dead).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("127.0.0.1:1"), "{refused}");
    registry.hold();
    let refused = pull(&node, &image).await.unwrap_err();
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Unavailable), "{refused}");
    registry.release();
    pull(&node, &image).await.unwrap();
    assert_eq!(node.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_on_disk_is_said_and_dropped() {
    unless!(obstacle());
    let mut node = Node::new();
    let registry = Registry::new();
    let [kept, cut, lost] = ["kept", "cut", "lost"].map(|name| registry.image(name, &[layer(name, 1 << 16)]));
    let mut client = node.start().await;
    for image in [&kept, &cut, &lost] {
        pull(&node, image).await.unwrap();
    }
    let good = run_pod(&mut client, node.pod("good")).await;
    let bad = run_pod(&mut client, node.pod("bad")).await;
    let runs = create(&mut client, &good, container("runs", "sleep 1000")).await;
    let broken = create(&mut client, &good, container("broken", "sleep 1000")).await;
    let orphan = create(&mut client, &bad, container("orphan", "sleep 1000")).await;
    for id in [&runs, &broken, &orphan] {
        start(&mut client, id).await;
    }
    node.kill();

    // As a file system without a journal may leave what was written last.
    let state = node.path("state");
    let cut_short = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    cut_short(state.join("pods").join(&bad).join("record.json"));
    fs::write(state.join("containers").join(&broken).join("record.json"), [0; 700]).unwrap();
    fs::write(state.join("pods").join(&good).join("record.new"), "{").unwrap();
    fs::create_dir(state.join("pods/stray")).unwrap();
    fs::write(state.join("pods/file"), "").unwrap();
    fs::write(state.join("pod-cidr.json"), "\"10.").unwrap();
    let of = |name: &str| -> (PathBuf, PathBuf) {
        let records = fs::read_dir(state.join("images/images")).unwrap().flatten();
        let named = |path: &PathBuf| fs::read_to_string(path).unwrap().contains(&format!("/{name}:1"));
        let record = records.map(|entry| entry.path()).find(named).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        let layer = document["layers"][0].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        (record, state.join("images/layers").join(layer))
    };
    cut_short(of("cut").0);
    fs::write(of("lost").1.join("layer.json"), "").unwrap();
    fs::create_dir_all(state.join("images/ingest/7/fs/deep")).unwrap();
    fs::write(state.join("images/content/stray"), "").unwrap();

    client = node.start().await;
    let log = node.log();
    for place in [format!("pods/{bad}"), format!("containers/{broken}"), "images/layers".to_owned()] {
        assert!(log.lines().any(|line| line.contains(&place)), "{place} is not spoken of: {log}");
    }
    assert_eq!(images(&node).await, [kept.clone(), IMAGE.to_owned()]);
    assert_eq!(status(&mut client, &runs).await.state(), cri::ContainerState::ContainerRunning);
    let kept_containers = containers(&mut client).await;
    assert_eq!(kept_containers.iter().map(|item| &item.id).collect::<Vec<_>>(), [&runs]);
    assert_eq!(pods(&mut client).await.iter().map(|item| &item.id).collect::<Vec<_>>(), [&good]);
    for image in [&cut, &lost] {
        pull(&node, image).await.unwrap();
    }
    remove_pod(&mut client, &good).await;
    // Not ours, so it stays.
    fs::remove_file(state.join("pods/file")).unwrap();
    assert_eq!(node.leaks(), Vec::<String>::new());
}

/// A manifest that was damaged where it lies is fetched again instead of being believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_content_is_fetched_again() {
    unless!(obstacle());
    let mut node = Node::new();
    let registry = Registry::new();
    let image = registry.image("app", &[layer("one", 1 << 16)]);
    let _client = node.start().await;
    let id = pull(&node, &image).await.unwrap();
    let content = node.path("state/images/content").join(id.trim_start_matches("sha256:"));
    let whole = fs::read(&content).unwrap();
    fs::write(&content, "{}").unwrap();
    assert_eq!(pull(&node, &image).await.unwrap(), id);
    assert_eq!(fs::read(&content).unwrap(), whole);
}
