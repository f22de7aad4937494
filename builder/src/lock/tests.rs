//! Locks on disk, and the decision whether one still fits.

use super::*;

fn package(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: "amd64".to_owned(),
        source: name.to_owned(),
        archive: Area::Main,
        filename: format!("pool/{name}.deb"),
        size: 10,
        digest: Sha256Digest::new([7; 32]),
    }
}

fn wishes() -> Wishes {
    Wishes {
        suite: "trixie".to_owned(),
        architecture: "amd64".to_owned(),
        packages: ["systemd".to_owned()].into(),
        excluded: BTreeSet::new(),
        essential: false,
        urls: Vec::new(),
        images: Vec::new(),
    }
}

fn lock(packages: &[(&str, &str)]) -> Lock {
    Lock {
        version: 1,
        suite: "trixie".to_owned(),
        architecture: "amd64".to_owned(),
        source_date_epoch: 1_795_252_544,
        wishes: wishes().digest(),
        packages: packages.iter().map(|(name, version)| package(name, version)).collect(),
        urls: vec![LockedUrl { url: "https://x/kubelet".to_owned(), digest: Sha256Digest::new([1; 32]) }],
        images: Vec::new(),
    }
}

#[test]
fn a_lock_round_trips_and_is_one_table_a_package() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("worker.lock");
    assert!(Lock::load(&path).unwrap().is_none());
    let mut lock = lock(&[("a", "1"), ("b", "2:1-1")]);
    lock.packages[1].archive = Area::Security;
    lock.save(&path).unwrap();
    assert_eq!(Lock::load(&path).unwrap().unwrap(), lock);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("[[package]]").count(), 2);
    assert_eq!(text.matches("archive = \"security\"").count(), 1);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing half-made is left");
    assert_eq!(lock.digest().unwrap(), Sha256Digest::new(Sha256::digest(text).into()));
}

#[test]
fn malformed_locks_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("worker.lock");
    let good = lock(&[("a", "1")]).to_toml().unwrap();
    for (from, to) in [("version = 1", "version = 9"), ("pool/a.deb", "../a.deb"), ("suite", "sweet")] {
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let error = Lock::load(&path).unwrap_err().to_string();
        assert!(error.contains("worker.lock"), "{error}");
    }
}

#[test]
fn only_what_resolution_depends_on_makes_a_lock_stale() {
    let lock = lock(&[]);
    assert_eq!(stale(&lock, &wishes()), None);
    let urls = vec![LockedUrl { url: "https://y".to_owned(), digest: Sha256Digest::new([2; 32]) }];
    assert_eq!(stale(&lock, &Wishes { urls, ..wishes() }), None);
    let changed = [
        Wishes { packages: ["udev".to_owned()].into(), ..wishes() },
        Wishes { packages: BTreeSet::new(), excluded: ["systemd".to_owned()].into(), ..wishes() },
        Wishes { suite: "forky".to_owned(), ..wishes() },
        Wishes { essential: true, ..wishes() },
    ];
    for wishes in changed {
        assert!(stale(&lock, &wishes).is_some(), "{wishes:?}");
    }
}

#[test]
fn changes_are_told_by_package() {
    let (old, new) =
        (lock(&[("a", "1"), ("b", "1"), ("d", "1")]), lock(&[("b", "2"), ("c", "1"), ("d", "1")]));
    assert_eq!(changes(Some(&old), &new), ["a 1 is gone", "b 1 became 2", "c 1 is new"]);
}

mod settling {
    //! The whole procedure against a mirror on loopback that has one package and then no longer.

    use super::*;
    use crate::source::{cache::Cache, fetch::Proxies, progress::silent};
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
        sync::Mutex,
    };

    /// A server that answers each request as `serve(path)` says; `None` is a 404.
    fn server(serve: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut head = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).unwrap() > 0 {}
                let (status, body) = match serve(head.split(' ').nth(1).unwrap_or_default()) {
                    Some(body) => ("200 OK", body),
                    None => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(&body));
            }
        });
        format!("http://{address}/debian")
    }

    fn fetcher(directory: &Path) -> Fetcher {
        let proxies = Proxies { rules: [("http".to_owned(), None)].into() };
        Fetcher::new(Cache::open(directory.join("cache")).unwrap(), proxies).unwrap()
    }

    fn locked(bytes: &[u8]) -> Lock {
        let mut lock = lock(&[("a", "1")]);
        lock.urls.clear();
        lock.packages[0].digest = Sha256Digest::new(Sha256::digest(bytes).into());
        lock.packages[0].size = bytes.len() as u64;
        lock
    }

    #[test]
    fn a_lock_that_fits_is_used_without_any_index() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let asked = std::sync::Arc::new(Mutex::new(Vec::new()));
        let log = std::sync::Arc::clone(&asked);
        let uri = server(move |path| {
            log.lock().unwrap().push(path.to_owned());
            path.ends_with("/pool/a.deb").then(|| b"package".to_vec())
        });
        let mirror = Mirror::explicit(&uri, None).unwrap();
        locked(b"package").save(&path).unwrap();
        let fetcher = fetcher(directory.path());
        for policy in [Policy::Locked, Policy::Prefer] {
            let settled = settle(&path, &wishes(), policy, &mirror, &fetcher, &silent).unwrap();
            assert_eq!(settled.lock(), &locked(b"package"));
            assert!(settled.changes().is_empty());
        }
        assert_eq!(*asked.lock().unwrap(), ["/debian/pool/a.deb"], "once, and then the cache answers");
    }

    #[test]
    fn what_the_mirror_lost_is_refused_or_resolved_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let mut mirror = Mirror::explicit(&server(|_| None), None).unwrap();
        mirror.keyring = directory.path().join("no-keyring");
        locked(b"package").save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let fetcher = fetcher(directory.path());
        let error = settle(&path, &wishes(), Policy::Locked, &mirror, &fetcher, &silent).unwrap_err();
        assert!(matches!(&error, LockError::Stale { why, .. } if why.contains("no longer has")), "{error}");

        let said = Mutex::new(String::new());
        let listen = |event: Event<'_>| {
            if let Event::Notice(text) = event {
                said.lock().unwrap().push_str(text);
            }
        };
        let error = settle(&path, &wishes(), Policy::Prefer, &mirror, &fetcher, &listen).unwrap_err();
        assert!(matches!(error, LockError::Archive(_)), "it went on to resolve: {error}");
        assert!(said.lock().unwrap().contains("resolved anew"), "and said so");
        assert_eq!(std::fs::read(&path).unwrap(), before, "a failure leaves the lock as it was");
    }

    #[test]
    fn locked_refuses_a_changed_profile_and_a_missing_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.lock");
        let mirror = Mirror::explicit("http://127.0.0.1:9/debian", None).unwrap();
        let fetcher = fetcher(directory.path());
        let refuse = |wishes: &Wishes| settle(&path, wishes, Policy::Locked, &mirror, &fetcher, &silent);
        assert!(matches!(refuse(&wishes()), Err(LockError::Stale { .. })));
        locked(b"package").save(&path).unwrap();
        let changed = Wishes { essential: true, ..wishes() };
        assert!(matches!(refuse(&changed), Err(LockError::Stale { .. })));
    }
}
