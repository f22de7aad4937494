//! The downloader against a server on loopback that misbehaves as told.

use super::*;
use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Serves every request with `answer(request number, request head)`: raw bytes, then the connection is closed.
fn serve(answer: impl Fn(usize, &str) -> Vec<u8> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream: TcpStream = stream.unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap() > 0 {}
            let number = counted.fetch_add(1, Ordering::SeqCst);
            // The client may have hung up: not the server's concern.
            let _ = (&stream).write_all(&answer(number, &head.to_lowercase()));
        }
    });
    (url, count)
}

fn fetcher(directory: &std::path::Path) -> Fetcher {
    let proxies = Proxies { rules: [("http".to_owned(), None)].into() };
    Fetcher::new(Cache::open(directory.to_owned()).unwrap(), proxies).unwrap()
}

fn download(url: &str, content: &[u8]) -> Download {
    Download {
        what: "the file".to_owned(),
        url: url.to_owned(),
        digest: Sha256Digest::new(Sha256::digest(content).into()),
        size: Some(content.len() as u64),
    }
}

fn ok(content: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).into_bytes();
    answer.extend_from_slice(content);
    answer
}

#[test]
fn a_broken_transfer_is_resumed_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let served = content.clone();
    let (url, requests) = serve(move |number, head| match number {
        0 => ok(&served)[..100_000].to_vec(),
        _ => {
            let from = head.split("range: bytes=").nth(1).expect("asks for the rest");
            let from: usize = from.split('-').next().unwrap().parse().unwrap();
            assert!(from > 0);
            let rest = &served[from..];
            let mut answer = format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\r\n",
                rest.len(),
                served.len() - 1,
                served.len()
            )
            .into_bytes();
            answer.extend_from_slice(rest);
            answer
        }
    });
    let received = std::sync::atomic::AtomicU64::new(0);
    let progress = |event: Event<'_>| {
        if let Event::Received(count) = event {
            received.fetch_add(count, Ordering::SeqCst);
        }
    };
    let fetcher = fetcher(directory.path());
    let wanted = [download(&url, &content)];
    let paths = fetcher.blobs(&wanted, &progress).unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), content);
    assert_eq!(received.into_inner(), content.len() as u64);
    assert_eq!(requests.load(Ordering::SeqCst), 2);

    fetcher.blobs(&wanted, &|_| {}).unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 2, "the cache answers the second time");
}

#[test]
fn wrong_bytes_are_refused_and_not_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (url, requests) = serve(|_, _| ok(b"evil"));
    let error = fetcher(directory.path()).blobs(&[download(&url, b"good")], &|_| {}).unwrap_err();
    assert!(matches!(error, FetchError::WrongDigest { .. }), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
    let left = std::fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(left, 0, "nothing of it is kept");

    let error = fetcher(directory.path()).blobs(&[download(&url, b"g")], &|_| {}).unwrap_err();
    assert!(matches!(error, FetchError::TooLong { limit: 1, .. }), "{error}");
}

#[test]
fn a_foreign_part_does_not_spoil_the_download() {
    let directory = tempfile::tempdir().unwrap();
    let wanted = |url: &str| download(url, b"good");
    let (url, _) = serve(|_, _| ok(b"good"));
    let fetcher = fetcher(directory.path());
    let path = fetcher.cache().blob(&wanted(&url).digest);
    std::fs::write(path.with_extension("part"), b"evil").unwrap();
    fetcher.blobs(&[wanted(&url)], &|_| {}).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"good");
}

#[test]
fn a_part_that_is_whole_is_not_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let (url, requests) = serve(|_, _| ok(b"good"));
    let fetcher = fetcher(directory.path());
    let wanted = Download { size: None, ..download(&url, b"good") };
    let path = fetcher.cache().blob(&wanted.digest);
    std::fs::write(path.with_extension("part"), b"good").unwrap();
    fetcher.blobs(&[wanted], &|_| {}).unwrap();
    assert_eq!((std::fs::read(path).unwrap().as_slice(), requests.load(Ordering::SeqCst)), (&b"good"[..], 0));
}

#[test]
fn faults_that_pass_are_retried_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let fetcher = fetcher(directory.path());
    let (url, requests) = serve(|number, _| match number {
        0 => b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        _ => ok(b"good"),
    });
    fetcher.blobs(&[download(&url, b"good")], &|_| {}).unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 2);

    let (url, requests) = serve(|_, _| b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let error = fetcher.blobs(&[download(&url, b"other")], &|_| {}).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn a_server_that_is_down_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    drop(listener);
    let error = fetcher(directory.path()).document(&url, 10, &|_| {}).unwrap_err().to_string();
    assert!(error.contains(&url) && error.to_lowercase().contains("connection refused"), "{error}");
}

#[test]
fn proxies_are_chosen_by_host_before_scheme() {
    let rules = [
        ("http".to_owned(), Some("http://proxy.example:3142".to_owned())),
        ("http::direct.example".to_owned(), None),
    ];
    let proxies = Proxies { rules: rules.into() };
    let rule = |url: &str| proxies.rule(&Url::parse(url).unwrap()).cloned();
    assert_eq!(rule("http://other.example/x"), Some(Some("http://proxy.example:3142".to_owned())));
    assert_eq!(rule("http://direct.example/x"), Some(None));
    assert_eq!(rule("https://other.example/x"), None);
}
