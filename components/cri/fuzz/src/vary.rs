//! Changes of JSON that leave it JSON.

use cairn_streaming_fuzz::random::Random;
use serde_json::{Value, json};

/// Changes some values of a document.
pub fn vary(document: &mut Value, random: &mut Random) {
    for _ in 0..random.below(4) {
        let depth = random.below(6);
        vary_below(document, depth, random);
    }
}

/// Changes a value at most so deep.
fn vary_below(value: &mut Value, depth: usize, random: &mut Random) {
    let next = match value {
        Value::Object(map) if depth > 0 => {
            let number = random.below(map.len());
            map.values_mut().nth(number)
        }
        Value::Array(list) if depth > 0 => {
            let number = random.below(list.len());
            list.get_mut(number)
        }
        _ => None,
    };
    if let Some(next) = next {
        return vary_below(next, depth - 1, random);
    }
    *value = match random.below(10) {
        0 => Value::Null,
        1 => json!(random.next()),
        2 => json!(u64::MAX),
        3 => json!(-1),
        4 => json!("x".repeat(random.below(3000))),
        5 => json!([value.clone(), value.clone()]),
        6 => json!({"a": value.clone()}),
        // Up to three times of three, one in the other.
        7 => Value::Array(vec![value.clone(); random.below(20)]),
        8 => json!("\u{0}../é\u{1f980}"),
        _ => json!(1e308),
    };
}
