//! A server to try clients on. Each line on standard input asks for a URL, which is printed:
//!
//! ```text
//! exec cat            standard input comes back
//! exec sink           standard input is counted
//! exec source 1000    so many bytes, each its position's low byte times 31
//! exec early 3        1000 bytes of standard input are read, and that was that
//! exec exit 3         an exit code
//! exec tty            terminal sizes, as they come, until one is 0 columns wide
//! exec sleep          nothing, until the client goes
//! attach              as exec cat
//! portforward [PORT]  echoes; port 9 is refused
//! ```
#![allow(clippy::print_stdout)]

use cairn_streaming::{
    Attach, CREATION_TIMEOUT, Exec, Finish, IDLE_TIMEOUT, Input, Output, PortForward, Request, Runtime,
    Server, Stdio,
};
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

struct Echo;

/// Says so when a command is given up.
struct Given(&'static str);

impl Drop for Given {
    fn drop(&mut self) {
        eprintln!("{}", self.0);
    }
}

async fn run(command: &[String], stdio: Stdio) -> std::io::Result<i32> {
    let Stdio { stdin, stdout, stderr: _stderr, mut resize } = stdio;
    let mut input = stdin.unwrap_or_else(|| Box::new(tokio::io::empty()));
    let mut output = stdout.unwrap_or_else(|| Box::new(tokio::io::sink()));
    let number = || command.get(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    match command[0].as_str() {
        "cat" => {
            let given = Given("cat was given up");
            tokio::io::copy(&mut input, &mut output).await?;
            std::mem::forget(given);
        }
        "sink" => {
            let mut chunk = vec![0; 64 << 10];
            let mut sum = 0;
            loop {
                match input.read(&mut chunk).await? {
                    0 => break,
                    count => sum += count,
                }
            }
            output.write_all(sum.to_string().as_bytes()).await?;
        }
        "source" => {
            let given = Given("source was given up");
            let mut at = 0;
            while at < number() {
                let until = number().min(at + 8192);
                let chunk: Vec<u8> = (at..until).map(|at| (at as u8).wrapping_mul(31)).collect();
                output.write_all(&chunk).await?;
                at = until;
            }
            std::mem::forget(given);
        }
        "early" => {
            let mut some = [0; 1000];
            input.read_exact(&mut some).await?;
            output.write_all(b"enough").await?;
            return Ok(number() as i32);
        }
        "exit" => return Ok(number() as i32),
        "tty" => {
            while let Some(size) = resize.recv().await {
                output.write_all(format!("{}x{}\r\n", size.columns, size.rows).as_bytes()).await?;
                if size.columns == 0 {
                    break;
                }
            }
        }
        "sleep" => {
            let _given = Given("sleep was given up");
            std::future::pending::<()>().await;
        }
        _ => return Ok(127),
    }
    Ok(0)
}

impl Runtime for Echo {
    fn exec(&self, exec: Exec, stdio: Stdio) -> BoxFuture<'_, Finish> {
        Box::pin(async move {
            run(&exec.command, stdio)
                .await
                .map_or_else(|error| Finish::Failed(error.to_string()), Finish::Exited)
        })
    }

    fn attach(&self, _: Attach, stdio: Stdio) -> BoxFuture<'_, Finish> {
        Box::pin(async move {
            run(&["cat".to_owned()], stdio)
                .await
                .map_or_else(|error| Finish::Failed(error.to_string()), Finish::Exited)
        })
    }

    fn port_forward(
        &self,
        _: String,
        port: u16,
        (mut input, mut output): (Input, Output),
    ) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            if port == 9 {
                return Err("connection refused".to_owned());
            }
            tokio::io::copy(&mut input, &mut output).await.map(drop).map_err(|error| error.to_string())
        })
    }
}

fn request(line: &str) -> Option<Request> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let container = "echo".to_owned();
    Some(match words.next()?.as_str() {
        "exec" => {
            let command: Vec<String> = words.collect();
            let tty = command.first()? == "tty";
            let stdin = matches!(command.first()?.as_str(), "cat" | "sink" | "early");
            Request::Exec(Exec { container, command, tty, stdin, stdout: true, stderr: !tty })
        }
        "attach" => {
            Request::Attach(Attach { container, tty: false, stdin: true, stdout: true, stderr: true })
        }
        "portforward" => {
            let ports = words.filter_map(|port| port.parse().ok()).collect();
            Request::PortForward(PortForward { sandbox: container, ports })
        }
        _ => return None,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let server = Server::bind(([127, 0, 0, 1], 0).into(), IDLE_TIMEOUT, CREATION_TIMEOUT)?;
    let asked = server.clone();
    let asking = async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match request(&line).map(|request| asked.url(request)) {
                Some(Ok(url)) => println!("{url}"),
                Some(Err(error)) => eprintln!("{error}"),
                None => eprintln!("{line}: what is that?"),
            }
        }
    };
    server.serve(Arc::new(Echo), asking).await;
    Ok(())
}
