//! A client whose streams are pipes in memory.

use crate::support::PATIENCE;
use cairn_streaming::{Finish, Stdio, TerminalSize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// A client at its end of the streams.
pub(crate) struct Client {
    pub(crate) stdin: Option<DuplexStream>,
    pub(crate) stdout: DuplexStream,
    pub(crate) stderr: Option<DuplexStream>,
    pub(crate) resize: mpsc::Sender<TerminalSize>,
    pub(crate) session: JoinHandle<Finish>,
}

impl Client {
    pub(crate) fn new(stdin: bool, stderr: bool, start: impl FnOnce(Stdio) -> JoinHandle<Finish>) -> Self {
        let wire = || duplex(8 << 10);
        let (input, output, errors) = (stdin.then(wire), wire(), stderr.then(wire));
        let (resize, sizes) = mpsc::channel(4);
        let (input, stdin) = input.unzip();
        let (errors, stderr) = errors.unzip();
        let session = start(Stdio {
            stdin: stdin.map(|stdin| Box::new(stdin) as _),
            stdout: Some(Box::new(output.1)),
            stderr: stderr.map(|stderr| Box::new(stderr) as _),
            resize: sizes,
        });
        Self { stdin: input, stdout: output.0, stderr: errors, resize, session }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads standard output until `text` has come.
    pub(crate) async fn expect(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let until = async {
            let mut bytes = [0; 4096];
            loop {
                let length = self.stdout.read(&mut bytes).await.unwrap();
                assert!(length > 0, "the output ended: {:?}", tail(&seen));
                let known = seen.len().saturating_sub(text.len());
                seen.extend_from_slice(&bytes[..length]);
                if seen[known..].windows(text.len()).any(|window| window == text.as_bytes()) {
                    return;
                }
            }
        };
        let done = timeout(PATIENCE, until).await;
        assert!(done.is_ok(), "no {text:?} in {:?}", tail(&seen));
        String::from_utf8_lossy(&seen).into_owned()
    }

    pub(crate) async fn finish(self) -> Finish {
        timeout(PATIENCE, self.session).await.expect("the session does not end").unwrap()
    }

    /// The rest of both outputs, and the end.
    pub(crate) async fn rest(mut self) -> (String, String, Finish) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let reading = async {
            let errors = async {
                if let Some(stderr) = &mut self.stderr {
                    stderr.read_to_end(&mut err).await.unwrap();
                }
            };
            tokio::join!(self.stdout.read_to_end(&mut out), errors).0.unwrap();
        };
        timeout(PATIENCE, reading).await.expect("the output does not end");
        let (out, err) =
            (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned());
        let finish = timeout(PATIENCE, self.session).await.expect("the session does not end").unwrap();
        (out, err, finish)
    }
}

/// The end of some output, for a message.
fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(500)..]).into_owned()
}
