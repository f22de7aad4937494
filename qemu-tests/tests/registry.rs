//! The registry, seen by an HTTP client.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use bytes::Bytes;
use cairn_qemu::registry::{
    Access, Fault, ImageBuilder, Layer, Registry, SyntheticImage, SyntheticIndex, synthesis::Compression,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

fn image() -> SyntheticImage {
    // Bytes that do not compress: a linear congruential generator.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let content: Vec<u8> = (0..300_000).map(|_| next()).collect();
    let layer = Layer::new().file("program", 0o755, &content).unwrap();
    ImageBuilder::new("amd64").layer(layer, Compression::Gzip).unwrap().build()
}

struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
    base: String,
}

impl Http {
    fn new(registry: &Registry) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base: format!("http://{}", registry.address()) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Response<hyper::body::Incoming> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.client.request(request.body(Empty::new()).unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, Bytes) {
        let response = self.send(Method::GET, path, headers).await;
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    }
}

#[tokio::test]
async fn manifests_and_blobs_are_served_by_tag_and_digest_with_ranges() {
    let registry = Registry::start(Access::Open).await.unwrap();
    let image = image();
    registry.publish("a/b", "v1", &image);
    let http = Http::new(&registry);

    assert_eq!(http.get("/v2/", &[]).await.0, StatusCode::OK);
    let response = http.send(Method::GET, "/v2/a/b/manifests/v1", &[]).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(response.headers()["docker-content-digest"], image.manifest.digest.to_string().as_str());
    let by_digest = http.get(&format!("/v2/a/b/manifests/{}", image.manifest.digest), &[]).await;
    assert_eq!(by_digest, (StatusCode::OK, image.manifest.bytes.clone()));

    let layer = &image.layers[0];
    let path = format!("/v2/a/b/blobs/{}", layer.digest);
    assert_eq!(http.get(&path, &[]).await, (StatusCode::OK, layer.bytes.clone()));
    let head = http.send(Method::HEAD, &path, &[]).await;
    assert_eq!(head.headers()["content-length"], layer.bytes.len().to_string().as_str());
    let part = http.send(Method::GET, &path, &[("range", "bytes=10-19")]).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 10-19/{}", layer.bytes.len()).as_str());
    assert_eq!(part.into_body().collect().await.unwrap().to_bytes(), layer.bytes.slice(10..20));
    let beyond = http.get(&path, &[("range", "bytes=99999999-")]).await;
    assert_eq!(beyond.0, StatusCode::RANGE_NOT_SATISFIABLE);

    for missing in ["/v2/a/b/manifests/v2", "/v2/other/manifests/v1", "/v2/a/b/blobs/sha256:00", "/v1/"] {
        assert_eq!(http.get(missing, &[]).await.0, StatusCode::NOT_FOUND, "{missing}");
    }
    let ranges: Vec<_> = registry.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=10-19", "bytes=99999999-"]);
}

#[tokio::test]
async fn an_index_leads_to_every_platform() {
    let registry = Registry::start(Access::Open).await.unwrap();
    let ours = image();
    let foreign = ImageBuilder::new("arm64").build();
    registry.publish_index("a", "multi", &SyntheticIndex::new(vec![foreign.clone(), ours.clone()]));
    let http = Http::new(&registry);
    let (_, body) = http.get("/v2/a/manifests/multi", &[]).await;
    let index: Value = serde_json::from_slice(&body).unwrap();
    let platforms: Vec<_> =
        (0..2).map(|n| index["manifests"][n]["platform"]["architecture"].clone()).collect();
    assert_eq!(platforms, ["arm64", "amd64"]);
    for image in [foreign, ours] {
        let found = http.get(&format!("/v2/a/manifests/{}", image.manifest.digest), &[]).await;
        assert_eq!(found, (StatusCode::OK, image.manifest.bytes));
    }
}

#[tokio::test]
async fn a_token_is_asked_for_given_and_honoured() {
    let access = Access::Token { user: "u".into(), password: "p".into() };
    let registry = Registry::start(access).await.unwrap();
    registry.publish("a/b", "v1", &image());
    let http = Http::new(&registry);
    let refused = http.send(Method::GET, "/v2/a/b/manifests/v1", &[]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert_eq!(
        challenge,
        format!(
            "Bearer realm=\"http://{}/token\",service=\"cairn-test-registry\",scope=\"repository:a/b:pull\"",
            registry.address()
        )
    );
    assert_eq!(http.get("/token", &[("authorization", "Basic dTp4")]).await.0, StatusCode::UNAUTHORIZED);
    let (status, body) = http.get("/token", &[("authorization", "Basic dTpw")]).await;
    assert_eq!(status, StatusCode::OK);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let bearer = format!("Bearer {}", body["token"].as_str().unwrap());
    assert_eq!(http.get("/v2/a/b/manifests/v1", &[("authorization", &bearer)]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn faults_come_in_order_and_end() {
    let registry = Registry::start(Access::Open).await.unwrap();
    let image = image();
    registry.publish("a", "v1", &image);
    let http = Http::new(&registry);
    let layer = &image.layers[0];
    let path = format!("/v2/a/blobs/{}", layer.digest);

    registry.misbehave(Fault::ServerError, 1);
    registry.misbehave(Fault::ResetAfter(100_000), 1);
    registry.misbehave(Fault::Corrupt, 1);
    assert_eq!(http.get(&path, &[]).await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let config = format!("/v2/a/blobs/{}", image.config.digest);
    assert_eq!(http.get(&config, &[]).await.1, image.config.bytes, "too small for the reset, which waits");

    let mut body = http.send(Method::GET, &path, &[]).await.into_body();
    let mut received = 0;
    let broke = loop {
        match body.frame().await {
            Some(Ok(frame)) => received += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(broke && received <= 100_000, "{received} bytes, broken: {broke}");

    let (_, damaged) = http.get(&path, &[]).await;
    assert_eq!(damaged.len(), layer.bytes.len());
    assert_eq!(damaged.iter().zip(&layer.bytes).filter(|(a, b)| a != b).count(), 1);
    assert_eq!(http.get(&path, &[]).await.1, layer.bytes);
}
