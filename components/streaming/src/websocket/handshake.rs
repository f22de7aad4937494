//! The one computation of the opening handshake (RFC 6455, section 4.2.2).

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// What is put behind the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Accept` for this `Sec-WebSocket-Key`: proof that the server knows what it answers.
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{}{GUID}", key.trim())))
}
