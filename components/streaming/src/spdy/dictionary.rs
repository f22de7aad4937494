//! The text that header compression starts from (SPDY/3, section 2.6.10.1): words that headers are made of.

/// Each is in the dictionary with its length before it, as in a header block.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What follows the words, as it is.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary's length in bytes.
pub const LENGTH: usize = 1423;

/// Its Adler-32 checksum, by which a zlib stream names it.
pub const CHECKSUM: u32 = 0xe3c6_a7c2;

/// The dictionary.
pub const DICTIONARY: [u8; LENGTH] = build();

const fn build() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut at = 0;
    let mut word = 0;
    while word < WORDS.len() {
        let text = WORDS[word].as_bytes();
        bytes[at + 3] = text.len() as u8; // all are shorter than 256
        at = copy(text, &mut bytes, at + 4);
        word += 1;
    }
    at = copy(TAIL.as_bytes(), &mut bytes, at);
    assert!(at == LENGTH);
    bytes
}

const fn copy(text: &[u8], bytes: &mut [u8; LENGTH], mut at: usize) -> usize {
    let mut next = 0;
    while next < text.len() {
        bytes[at] = text[next];
        at += 1;
        next += 1;
    }
    at
}
