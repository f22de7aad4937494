//! What the node listens on.

use crate::{
    guest::host::Host,
    node::CLOSED_PORTS,
    scenario::{Context, Needs, Scenario, Stop, check},
};
use cairn_contract::paths::MANAGEMENT_PORT;
use std::{net::Ipv4Addr, time::Duration};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

pub(super) static SCENARIO: Scenario = Scenario {
    id: "open-ports",
    title: "only the management API can be reached from outside",
    requirements: &["node hardening"],
    needs: Needs::Shared,
    budget: 1,
    run: |context| Box::pin(run(context)),
};

/// State `LISTEN` in /proc/net/tcp.
const LISTEN: &str = "0A";

async fn run(context: &mut Context<'_>) -> Result<(), Stop> {
    let guest = context.guest()?;
    context.step("read the node's table of listening sockets");
    let host = Host::look(&guest, &context.lab().probe).await?;
    let mut open = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        open.extend(listening(&host.read_own(table).await?));
    }
    host.leave().await?;
    open.sort_unstable();
    open.dedup();
    check(open == [MANAGEMENT_PORT], || {
        format!(
            "TCP ports {open:?} listen on addresses that can be reached from outside; only {MANAGEMENT_PORT} should"
        )
    })?;

    context.step("knock from the host");
    let wait = guest.pace().scale(Duration::from_secs(2));
    let management = context.node()?.port(MANAGEMENT_PORT)?;
    // Shows that the knocking can tell an open port from a closed one.
    check(stays_open(management, wait).await, || {
        "the management port hung up on a silent client".to_owned()
    })?;
    for port in CLOSED_PORTS {
        let host_port = context.node()?.port(port)?;
        check(!stays_open(host_port, wait).await, || format!("port {port} answers"))?;
    }
    Ok(())
}

/// Ports that listen on anything but the loopback, from a table in the form of /proc/net/tcp.
fn listening(table: &str) -> Vec<u16> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, state) = (fields.next()?, fields.nth(1)?);
            let (address, port) = local.rsplit_once(':')?;
            let open = state == LISTEN && !is_loopback(address);
            u16::from_str_radix(port, 16).ok().filter(|_| open)
        })
        .collect()
}

/// Addresses are 32-bit words in the machine's byte order: 127.0.0.0/8, ::1, and the first inside IPv6.
fn is_loopback(hex: &str) -> bool {
    match hex.len() {
        8 => hex.ends_with("7F"),
        _ => {
            hex == "00000000000000000000000001000000"
                || (hex.starts_with("0000000000000000FFFF0000") && hex.ends_with("7F"))
        }
    }
}

/// QEMU accepts for the guest and hangs up when the guest refuses; a server that waits for us to speak does not.
async fn stays_open(port: u16, wait: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return false };
    let mut byte = [0];
    match timeout(wait, stream.read(&mut byte)).await {
        Err(_) => true,
        Ok(result) => matches!(result, Ok(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_beyond_the_loopback_count() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:C50B 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:2710 00000000:0000 0A 00000000:00000000\n\
                     2: 0F02000A:C50B 0202000A:D432 01 00000000:00000000\n";
        assert_eq!(listening(table), [50443]);
        let table = "  sl  local_address remote_address st\n\
                     0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0\n\
                     1: 00000000000000000000000001000000:0017 00000000000000000000000000000000:0000 0A 0\n\
                     2: 0000000000000000FFFF00000100007F:0018 00000000000000000000000000000000:0000 0A 0\n";
        assert_eq!(listening(table), [22]);
    }
}
