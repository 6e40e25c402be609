//! Bytes as lower-case hex, the form in which the books keep them.

/// Two digits a byte.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        text.extend([byte >> 4, byte & 0xf].into_iter().filter_map(|nibble| char::from_digit(u32::from(nibble), 16)));
    }
    text
}

/// The bytes of lower-case hex, or nothing if the text is anything else.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_again_and_nothing_else_is() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all));
        assert_eq!(encode(&[0x0f, 0xa0]), "0fa0");
        for bad in ["0", "0g", "0A", "é", " 0"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
