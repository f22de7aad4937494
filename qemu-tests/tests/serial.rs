//! The console watcher, with a pipe in place of a machine.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A test that cannot go on panics.

use cairn_qemu::qemu::serial::{Mark, Seen, SerialLog};
use std::time::Duration;
use tokio::{io::AsyncWriteExt, time::Instant};

#[tokio::test]
async fn lines_are_found_logged_and_timed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("serial.log");
    let (mut guest, host) = tokio::io::duplex(64);
    let log = SerialLog::follow(host, &file, Instant::now()).await.unwrap();
    let far = |_| Instant::now() + Duration::from_secs(20);

    let writer = tokio::spawn(async move {
        guest.write_all(b"first\r\nnode re").await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        guest.write_all(b"ady\r\nlast").await.unwrap();
    });
    let Seen::Line(index, line) = log.wait_for(Mark::default(), &["absent", "node ready"], far).await else {
        panic!("the line was not seen");
    };
    assert_eq!((index, line.text.as_str()), (1, "node ready"));
    assert!(line.at >= Duration::from_millis(25), "{:?}", line.at);

    writer.await.unwrap();
    assert_eq!(
        log.wait_for(Mark::default(), &["absent"], far).await,
        Seen::Closed,
        "the guest's end was dropped"
    );
    let texts: Vec<_> = log.since(Mark::default()).into_iter().map(|line| line.text).collect();
    assert_eq!(texts, ["first", "node ready", "last"]);
    let written = tokio::fs::read_to_string(&file).await.unwrap();
    assert!(written.lines().nth(1).unwrap().ends_with(" node ready"), "{written}");
}

#[tokio::test]
async fn a_mark_hides_what_was_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut guest, host) = tokio::io::duplex(1024);
    let log = SerialLog::follow(host, &directory.path().join("log"), Instant::now()).await.unwrap();
    let far = |_| Instant::now() + Duration::from_secs(20);
    guest.write_all(b"ready\n").await.unwrap();
    assert!(matches!(log.wait_for(Mark::default(), &["ready"], far).await, Seen::Line(0, _)));
    let mark = log.mark();
    let soon = |_| Instant::now() + Duration::from_millis(20);
    assert!(matches!(log.wait_for(mark, &["ready"], soon).await, Seen::TimedOut { .. }));
    guest.write_all(b"ready again\n").await.unwrap();
    assert!(
        matches!(log.wait_for(mark, &["ready"], far).await, Seen::Line(0, line) if line.text == "ready again")
    );
}

#[tokio::test]
async fn output_moves_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let (mut guest, host) = tokio::io::duplex(1024);
    let log = SerialLog::follow(host, &directory.path().join("log"), Instant::now()).await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            guest.write_all(b"progress\n").await.unwrap();
        }
        guest.write_all(b"ready\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
    });
    // 500 ms pass in all, never 300 of them in silence.
    let seen = log.wait_for(Mark::default(), &["ready"], |last| last + Duration::from_millis(300)).await;
    assert!(matches!(seen, Seen::Line(0, _)), "{seen:?}");
    writer.abort();
}
