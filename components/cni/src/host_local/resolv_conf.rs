//! resolv.conf(5), as far as CNI's `dns` goes.

use crate::protocol::result::Dns;
use std::{io, path::Path};

pub(super) fn read(path: &Path) -> io::Result<Dns> {
    std::fs::read_to_string(path).map(|text| parse(&text))
}

/// The last `search` and `domain` line wins; name servers and options add up.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next().unwrap_or_default(),
            Some("search") => dns.search = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_resolvers_read() {
        let dns = parse(
            "# x\nnameserver 192.0.2.1\nnameserver  2001:db8::1 \nsearch a.b  c\noptions ndots:5 edns0\ndomain d\n;nameserver 1\nnameserver",
        );
        assert_eq!(dns.nameservers, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(
            (dns.search, dns.options, dns.domain.as_str()),
            (vec!["a.b".into(), "c".into()], vec!["ndots:5".into(), "edns0".into()], "d")
        );
    }
}
