//! A Debian mirror on loopback that answers as told.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, mpsc},
    time::Duration,
};

/// What is at a path.
#[derive(Clone)]
pub(crate) enum Answer {
    /// The file.
    File(Arc<Vec<u8>>),
    /// So many bytes of the file, then silence on an open connection.
    Stall(Arc<Vec<u8>>, usize),
}

/// A running mirror.
pub(crate) struct Mirror {
    /// URI of its main archive.
    pub(crate) uri: String,
    requests: mpsc::Receiver<String>,
}

impl Mirror {
    /// Serves `files` by path below the server's root; anything else is not there.
    pub(crate) fn start(files: impl IntoIterator<Item = (String, Answer)>) -> Self {
        let files: Arc<HashMap<String, Answer>> = Arc::new(files.into_iter().collect());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/debian", listener.local_addr().unwrap());
        let (asked, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (files, asked) = (Arc::clone(&files), asked.clone());
                std::thread::spawn(move || serve(&stream.unwrap(), &files, &asked));
            }
        });
        Self { uri, requests }
    }

    /// URI of a mirror that is down.
    pub(crate) fn down() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/debian", listener.local_addr().unwrap())
    }

    /// Waits until all of an answer, or as much of it as there ever will be, was sent; says the request's head.
    pub(crate) fn answered(&self) -> String {
        self.requests.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

fn serve(mut stream: &TcpStream, files: &HashMap<String, Answer>, asked: &mpsc::Sender<String>) {
    let mut head = String::new();
    let mut lines = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if lines.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap();
    let (file, end) = match files.get(path) {
        Some(Answer::File(file)) => (file, file.len()),
        Some(Answer::Stall(file, end)) => (file, *end),
        None => {
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
    };
    let from = head.to_lowercase().split("range: bytes=").nth(1).map_or(0, |range| {
        let digits: String = range.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    });
    let (length, last) = (file.len() - from, file.len() - 1);
    let status = match from {
        0 => "200 OK".to_owned(),
        from => format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{}", file.len()),
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    // A client that hung up is no concern of the server's.
    let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&file[from..end.max(from)]));
    let _ = asked.send(head);
    if end < file.len() {
        std::thread::sleep(Duration::from_secs(120));
    }
}
