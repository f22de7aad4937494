//! Networks and registries that fail, and content that is not what it should be.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[tokio::test]
async fn a_mirror_that_hangs_costs_one_deadline_and_is_asked_last_for_a_while() {
    let blob = vec![7; 1000];
    let mirror = Server::new(|_| Reply::hang()).await;
    let server = Server::new(|request| match request.target.contains("/blobs/") {
        true => Reply::ok(vec![7; 1000]),
        false => Reply::ok(MANIFEST),
    })
    .await;
    let node = Node::patient(Duration::from_secs(2));
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    let repository = node.open(&server, None);
    let begin = Instant::now();
    repository.resolve().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(2));
    for _ in 0..3 {
        assert_eq!(download(&repository, &descriptor(&blob)).await.1, blob);
    }
    // The next pull knows.
    node.resolve(&server, None).await.unwrap();
    assert_eq!(mirror.requests().len(), 1);
}

#[tokio::test]
async fn a_mirror_that_is_gone_is_passed_over() {
    let gone = Server::new(|_| Reply::new(500)).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::new(|_| Reply::ok(MANIFEST)).await;
    let node = Node::new();
    let text = mirrored(&gone, &server, "").replace(&gone.address.to_string(), &closed.to_string());
    node.hosts(&server, &text);
    let begin = Instant::now();
    assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
    assert!(begin.elapsed() < Duration::from_secs(5), "a refused connection was tried again");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    for (status, expected) in [(503, 2), (429, 2), (408, 2), (404, 1), (403, 1), (400, 1), (501, 1)] {
        let asked = AtomicUsize::new(0);
        let server = Server::new(move |_| match asked.fetch_add(1, SeqCst) {
            0 => Reply::ok(r#"{"errors":[{"code":"X","message":"because"}]}"#).status(status),
            _ => Reply::ok(MANIFEST),
        })
        .await;
        let result = Node::new().resolve(&server, None).await;
        assert_eq!(server.requests().len(), expected, "{status}");
        assert_eq!(result.is_ok(), expected == 2, "{status}");
        match (status, result) {
            (404, Err(ImageError::NotFound { detail, .. })) => {
                assert!(detail.contains("X because"), "{detail}")
            }
            (404, other) => panic!("{other:?}"),
            (403, other) => assert!(matches!(other, Err(ImageError::Denied { .. }))),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_registry_is_left_alone_for_as_long_as_it_asks() {
    for (header, least) in [("1".to_owned(), 1), ("Thu, 01 Jan 1970 00:00:00 GMT".to_owned(), 0)] {
        let asked = AtomicUsize::new(0);
        let server = Server::new(move |_| match asked.fetch_add(1, SeqCst) {
            0 => Reply::new(429).with("Retry-After", header.clone()),
            _ => Reply::ok(MANIFEST),
        })
        .await;
        let begin = Instant::now();
        Node::new().resolve(&server, None).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_secs(least));
    }
    let server = Server::new(|_| Reply::new(429).with("Retry-After", "7200")).await;
    let error = Node::new().resolve(&server, None).await.unwrap_err();
    assert!(matches!(&error, ImageError::Unavailable { detail, .. } if detail.contains("7200 s")), "{error}");
    assert_eq!(server.requests().len(), 1);
}

fn blob() -> Vec<u8> {
    (0..200_000_u32).map(|number| number.to_le_bytes()[number as usize % 2]).collect()
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let server = Server::new(|request| match request.header("range") {
        None => Reply::ok(blob()).cut(70_000),
        Some("bytes=70000-") => {
            let part = blob()[70_000..].to_vec();
            Reply::ok(part).status(206).with("Content-Range", "bytes 70000-199999/200000").cut(80_000)
        }
        Some("bytes=150000-") => {
            let part = blob()[150_000..].to_vec();
            Reply::ok(part).status(206).with("Content-Range", "bytes 150000-199999/*")
        }
        Some(_) => Reply::new(400),
    })
    .await;
    let node = Node::new();
    let (result, bytes) = download(&node.open(&server, None), &descriptor(&blob())).await;
    assert_eq!(result.unwrap(), Some(server.address.to_string()));
    assert!(bytes == blob());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn who_continues_wrongly_is_asked_for_the_whole() {
    for (status, range) in [(206, Some("bytes 0-199999/200000")), (206, None), (416, None), (200, None)] {
        let asked = AtomicUsize::new(0);
        let server = Server::new(move |request| {
            let first = asked.fetch_add(1, SeqCst) == 0;
            let reply = match request.header("range") {
                None if first => Reply::ok(blob()).cut(100_000),
                None => Reply::ok(blob()),
                Some(_) => Reply::ok(blob()).status(status),
            };
            match (request.header("range"), range) {
                (Some(_), Some(range)) => reply.with("Content-Range", range),
                _ => reply,
            }
        })
        .await;
        let node = Node::new();
        let (result, bytes) = download(&node.open(&server, None), &descriptor(&blob())).await;
        assert!(result.is_ok(), "{status} {range:?}: {result:?}");
        assert!(bytes == blob(), "{status} {range:?}");
    }
}

#[tokio::test]
async fn a_transfer_goes_on_at_the_next_endpoint() {
    let mirror = Server::new(|request| match request.header("range") {
        None => Reply::ok(blob()).cut(50_000),
        Some(_) => Reply::new(404),
    })
    .await;
    let server = Server::new(|request| match request.header("range") {
        Some("bytes=50000-") => Reply::ok(blob()[50_000..].to_vec())
            .status(206)
            .with("Content-Range", "bytes 50000-199999/200000"),
        _ => Reply::new(400),
    })
    .await;
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    let (result, bytes) = download(&node.open(&server, None), &descriptor(&blob())).await;
    assert_eq!(result.unwrap(), Some(server.address.to_string()));
    assert!(bytes == blob());
}

#[tokio::test]
async fn no_progress_at_all_is_a_stall() {
    let server = Server::new(|_| Reply::hang()).await;
    let node = Node::patient(Duration::from_secs(1));
    let (result, _) = download(&node.open(&server, None), &descriptor(b"x")).await;
    assert!(matches!(result, Err(ImageError::Stalled { .. })), "{result:?}");
}

#[tokio::test]
async fn too_much_is_refused() {
    let much = || vec![b' '; usize::try_from(MAX_MANIFEST).unwrap() + 1];
    let announced = Server::new(move |_| Reply::ok(much())).await;
    let unannounced = Server::new(move |_| Reply::ok(much()).with("Transfer-Encoding", "chunked")).await;
    for server in [&announced, &unannounced] {
        let error = Node::new().resolve(server, None).await.unwrap_err().to_string();
        assert!(error.contains("more than 4194304 bytes"), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
    let tokens = Server::new(|request| match request.target.starts_with("/token") {
        true => Reply::ok(vec![b' '; 300 << 10]),
        false => Reply::bearer(&format!("http://{}/token", request.header("host").unwrap())),
    })
    .await;
    let error = Node::new().resolve(&tokens, None).await.unwrap_err().to_string();
    assert!(error.contains("more than 262144 bytes"), "{error}");
    let errors = Server::new(|_| Reply::ok(vec![b'x'; 300 << 10]).status(404)).await;
    assert!(matches!(Node::new().resolve(&errors, None).await, Err(ImageError::NotFound { .. })));
    let long = Server::new(|_| Reply::ok("longer than it says")).await;
    let (result, _) = download(&Node::new().open(&long, None), &descriptor(b"short")).await;
    assert!(result.unwrap_err().to_string().contains("more than the 5 bytes"));
}

#[tokio::test]
async fn wrong_content_is_refused_and_the_next_endpoint_asked() {
    let mirror = Server::new(|_| Reply::ok("evil")).await;
    let server = Server::new(|_| Reply::ok(MANIFEST)).await;
    let node = Node::new();
    let wanted = digest_of(MANIFEST.as_bytes());
    let error = node.open(&mirror, None).manifest(wanted).await.unwrap_err().to_string();
    assert!(error.contains("wrong content"), "{error}");
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    let repository = node.open(&server, None);
    assert_eq!(repository.manifest(wanted).await.unwrap(), MANIFEST.as_bytes());
    assert_eq!(repository.blob(&descriptor(MANIFEST.as_bytes())).await.unwrap(), MANIFEST.as_bytes());
    // A registry that contradicts itself about a tag.
    let digest = digest_of(b"other").to_string();
    let confused =
        Server::new(move |_| Reply::ok(MANIFEST).with("Docker-Content-Digest", digest.clone())).await;
    assert!(node.resolve(&confused, None).await.is_err());
}

#[tokio::test]
async fn the_registrys_own_word_decides_and_capabilities_are_kept_to() {
    let mirror = Server::new(|_| Reply::new(403)).await;
    let server = Server::new(|_| Reply::new(404)).await;
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    let error = node.resolve(&server, None).await.unwrap_err();
    assert!(matches!(&error, ImageError::NotFound { detail, .. } if detail.contains("403")), "{error}");
    node.hosts(&server, &mirrored(&mirror, &server, "capabilities = ['pull']"));
    let before = mirror.requests().len();
    let repository = node.open(&server, None);
    assert!(repository.resolve().await.is_err());
    assert_eq!(mirror.requests().len(), before, "a mirror that may not resolve was asked for a tag");
    assert!(repository.manifest(digest_of(b"x")).await.is_err());
    assert_eq!(mirror.requests().len(), before + 1);
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::new(|_| Reply::new(302).with("Location", "/again")).await;
    let error = Node::new().resolve(&server, None).await.unwrap_err().to_string();
    assert!(error.contains("redirects"), "{error}");
    assert_eq!(server.requests().len(), 11);
}
