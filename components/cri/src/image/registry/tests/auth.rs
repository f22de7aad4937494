//! Who gets which credentials.

use super::*;

/// Wants a token named `granted` from a service of its own.
fn guarded(request: &Request) -> Reply {
    let host = request.header("host").unwrap();
    if request.target.starts_with("/token") {
        return match request.header("authorization") {
            Some(BASIC) => Reply::ok(r#"{"token":"granted","expires_in":300}"#),
            _ => Reply::new(401),
        };
    }
    match request.header("authorization") {
        Some("Bearer granted") => Reply::ok(MANIFEST),
        _ => Reply::bearer(&format!("http://{host}/token")),
    }
}

fn saw_credentials(server: &Server) -> bool {
    server.requests().iter().any(|request| request.headers.contains_key("authorization"))
}

#[tokio::test]
async fn a_token_is_got_with_the_pull_secret_and_kept() {
    let (node, server) = (Node::new(), Server::new(guarded).await);
    assert_eq!(node.resolve(&server, Some(&secret())).await.unwrap(), MANIFEST);
    assert_eq!(
        server.lines(),
        [
            "GET /v2/app/manifests/1",
            "GET /token?scope=repository%3Aapp%3Apull&service=test",
            "GET /v2/app/manifests/1"
        ]
    );
    node.resolve(&server, Some(&secret())).await.unwrap();
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 1);
    // What others were granted is not for a pull without credentials.
    assert!(matches!(node.resolve(&server, None).await, Err(ImageError::Denied { .. })));
}

#[tokio::test]
async fn a_token_that_expired_or_is_refused_is_replaced() {
    let issued = std::sync::atomic::AtomicU32::new(0);
    let server = Server::new(move |request| {
        use std::sync::atomic::Ordering::SeqCst;
        if request.target.starts_with("/token") {
            let number = issued.fetch_add(1, SeqCst) + 1;
            return Reply::ok(format!(r#"{{"access_token":"{number}","expires_in":3000}}"#));
        }
        // Only the newest token counts; the second manifest revokes them all.
        let newest = format!("Bearer {}", issued.load(SeqCst));
        if request.header("authorization") != Some(&newest) {
            let host = request.header("host").unwrap();
            return Reply::bearer(&format!("http://{host}/token"));
        }
        if request.target.ends_with("/1") {
            issued.fetch_add(1, SeqCst);
        }
        Reply::ok(MANIFEST)
    })
    .await;
    let node = Node::new();
    for _ in 0..3 {
        assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
    }
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 3);
}

#[tokio::test]
async fn layers_that_are_challenged_together_ask_for_one_token() {
    let blob = b"layer".to_vec();
    let server = Server::new(|request| match request.target.contains("/blobs/") {
        true => match guarded(request) {
            reply if request.header("authorization").is_none() => reply,
            _ => Reply::ok("layer"),
        },
        false => guarded(request),
    })
    .await;
    let node = Node::new();
    let repository = node.open(&server, Some(&secret()));
    let wanted = descriptor(&blob);
    let all = futures::future::join_all((0..4).map(|_| download(&repository, &wanted))).await;
    assert!(all.into_iter().all(|(result, bytes)| result.is_ok() && bytes == blob));
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 1);
}

#[tokio::test]
async fn a_mirror_does_not_get_the_pull_secret() {
    let (mirror, server) = (Server::new(guarded).await, Server::new(guarded).await);
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    assert_eq!(node.resolve(&server, Some(&secret())).await.unwrap(), MANIFEST);
    assert!(mirror.lines()[0].contains(&format!("?ns=127.0.0.1%3A{}", server.address.port())));
    assert!(!saw_credentials(&mirror) && saw_credentials(&server));
    // Unless it is the server that the secret is for: then the registry gets nothing.
    let named = PullSecret { server: Some(format!("http://{}/v2/", mirror.address)), ..secret() };
    let before = server.requests().len();
    node.resolve(&server, Some(&named)).await.unwrap();
    assert!(saw_credentials(&mirror) && server.requests().len() == before);
    // One for a third server is for neither.
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    let other = PullSecret { server: Some("other.example".into()), ..secret() };
    assert!(matches!(node.resolve(&server, Some(&other)).await, Err(ImageError::Denied { .. })));
}

#[tokio::test]
async fn a_mirror_has_the_nodes_credentials_for_it_or_those_of_its_header() {
    let (mirror, server) = (Server::new(guarded).await, Server::new(|_| Reply::new(404)).await);
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, ""));
    node.credentials(&format!(r#"{{"auths":{{"{}":{{"auth":"{}"}}}}}}"#, mirror.address, &BASIC[6..]));
    assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
    node.credentials("{}");
    let node = Node::new();
    node.hosts(&server, &mirrored(&mirror, &server, &format!("header.authorization = '{BASIC}'")));
    assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
    assert!(server.requests().is_empty());
    node.credentials("not json");
    let reference = format!("{}/app:1", server.address).parse().unwrap();
    assert!(matches!(node.registry.repository(&reference, None), Err(ImageError::Keyring(_))));
}

#[tokio::test]
async fn secrets_stay_behind_at_a_redirect() {
    let store = Server::new(|_| Reply::bearer("http://127.0.0.1:1/token")).await;
    let address = store.address;
    let server = Server::new(move |request| match request.target.as_str() {
        "/elsewhere" => Reply::ok(MANIFEST),
        target if target.ends_with("/near") => Reply::new(307).with("Location", "/elsewhere"),
        _ => Reply::new(307).with("Location", format!("http://{address}/bucket")),
    })
    .await;
    let node = Node::new();
    let keys =
        format!("server = 'http://{}'\n[header]\nx-key = 'k'\nauthorization = '{BASIC}'\n", server.address);
    node.hosts(&server, &keys);
    // Its challenge is not answered either: it is not the registry.
    assert!(matches!(node.resolve(&server, Some(&secret())).await, Err(ImageError::Denied { .. })));
    assert_eq!(store.requests().len(), 1);
    let seen = store.requests().remove(0);
    assert!(seen.header("authorization").is_none() && seen.header("x-key").is_none(), "{seen:?}");
    assert!(seen.header("accept").is_some_and(|accept| accept.contains("oci.image.index")));
    let near = format!("{}/app:near", server.address).parse().unwrap();
    node.registry.repository(&near, None).unwrap().resolve().await.unwrap();
    let seen = server.requests().pop().unwrap();
    assert_eq!((seen.header("authorization"), seen.header("x-key")), (Some(BASIC), Some("k")));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = Server::new(|request| {
        let form = "scope=repository%3Aapp%3Apull&service=test&grant_type=refresh_token&client_id=cairn-cri&refresh_token=a%26b";
        match (request.method.as_str(), request.target.as_str()) {
            ("POST", "/token") if request.body == form => Reply::ok(r#"{"access_token":"granted"}"#),
            ("POST", _) => Reply::new(400),
            _ => guarded(request),
        }
    })
    .await;
    let secret = PullSecret { auth: Auth::IdentityToken("a&b".into()), server: None };
    assert_eq!(Node::new().resolve(&server, Some(&secret)).await.unwrap(), MANIFEST);
}

#[tokio::test]
async fn basic_and_bearer_as_they_are() {
    let server = Server::new(|request| match request.header("authorization") {
        Some(BASIC | "Bearer raw") => Reply::ok(MANIFEST),
        _ => Reply::new(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    let node = Node::new();
    assert_eq!(node.resolve(&server, Some(&secret())).await.unwrap(), MANIFEST);
    let token = PullSecret { auth: Auth::RegistryToken("raw".into()), server: None };
    assert_eq!(node.resolve(&server, Some(&token)).await.unwrap(), MANIFEST);
    let wrong = PullSecret { auth: Auth::RegistryToken("x".into()), server: None };
    let before = server.requests().len();
    assert!(matches!(node.resolve(&server, Some(&wrong)).await, Err(ImageError::Denied { .. })));
    assert_eq!(server.requests().len(), before + 2, "wrong credentials are not tried again");
}

#[tokio::test]
async fn a_token_service_that_is_not_https_gets_no_credentials_of_a_registry_that_is() {
    let tokens = Server::new(|_| Reply::ok(r#"{"token":"granted"}"#)).await;
    let realm = format!("http://{}/token", tokens.address);
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let node = Node::new();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let script = move |request: &Request| match request.header("authorization") {
        Some("Bearer granted") => Reply::ok(MANIFEST),
        _ => Reply::bearer(&realm),
    };
    let server = Server::start(script, Some(acceptor)).await;
    let url = format!("https://{}", server.address);
    node.hosts(&server, &format!("server = '{url}'"));
    let error = node.resolve(&server, None).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    node.hosts(&server, &format!("server = '{url}'\nca = 'ca.pem'"));
    std::fs::write(node.directory.path().join(server.address.to_string()).join("ca.pem"), made.cert.pem())
        .unwrap();
    let error = node.resolve(&server, Some(&secret())).await.unwrap_err().to_string();
    assert!(error.contains("credentials are not sent there"), "{error}");
    assert!(tokens.requests().is_empty());
    assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
    node.hosts(&server, &format!("server = '{url}'\nskip_verify = true"));
    assert_eq!(node.resolve(&server, None).await.unwrap(), MANIFEST);
}
