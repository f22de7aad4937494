//! Texts of errors, which go to the kubelet in a header: what others say in them is cut.

/// Characters of somebody else's text, at most.
const SAID: usize = 300;

/// What a document or an image says, for a message.
pub(crate) fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(SAID).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
