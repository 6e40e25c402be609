//! The PROXY protocol's header, versions 1 and 2, before the first byte of a connection: who the client of a load balancer
//! is (haproxy.org, "The PROXY protocol", 2020-03-05). Only what the specification allows is taken, and not a byte beyond
//! the header is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// What every version 2 header starts with.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The longest version 1 header, with its line end.
const V1_BYTES_MAX: usize = 107;

/// Longest version 2 payload that is taken: addresses and the extensions that load balancers add.
const V2_PAYLOAD_BYTES_MAX: usize = 2048;

/// Why a connection has no client.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    /// It ended or broke.
    #[error("the PROXY header can't be read")]
    Read(#[from] std::io::Error),
    /// It isn't one.
    #[error("not a PROXY header: {0}")]
    Malformed(&'static str),
}

/// Who a header says the client is; nothing for connections that the load balancer made on its own account.
pub(super) type Announced = Option<IpAddr>;

/// Reads the header and nothing of what follows.
///
/// # Errors
/// When the connection ends early or starts with something else.
pub(super) async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Announced, ProxyHeaderError> {
    // No version 1 header is as short.
    let mut start = [0; V2_SIGNATURE.len()];
    from.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        return read_v2(from).await;
    }
    let mut line = start.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(ProxyHeaderError::Malformed("no signature"));
    }
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_BYTES_MAX {
            return Err(ProxyHeaderError::Malformed("the line is too long"));
        }
        line.push(from.read_u8().await?);
    }
    parse_v1(&line).map_err(ProxyHeaderError::Malformed)
}

async fn read_v2<R: AsyncRead + Unpin>(from: &mut R) -> Result<Announced, ProxyHeaderError> {
    let mut fixed = [0; 4];
    from.read_exact(&mut fixed).await?;
    let [version_and_command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_PAYLOAD_BYTES_MAX {
        return Err(ProxyHeaderError::Malformed("the payload is too long"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    parse_v2(version_and_command, family, &payload).map_err(ProxyHeaderError::Malformed)
}

fn parse_v1(line: &[u8]) -> Result<Announced, &'static str> {
    let text = std::str::from_utf8(line).ok().and_then(|text| text.strip_suffix("\r\n")).ok_or("not a line of text")?;
    let mut words = text.split(' ');
    if words.next() != Some("PROXY") {
        return Err("no signature");
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let (Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return Err("expected two addresses and two ports");
    };
    if !is_port(from_port) || !is_port(to_port) {
        return Err("not a port");
    }
    match family {
        Some("TCP4") => match (from.parse::<Ipv4Addr>(), to.parse::<Ipv4Addr>()) {
            (Ok(from), Ok(_to)) => Ok(Some(from.into())),
            _ => Err("not an IPv4 address"),
        },
        Some("TCP6") => match (from.parse::<Ipv6Addr>(), to.parse::<Ipv6Addr>()) {
            (Ok(from), Ok(_to)) => Ok(Some(IpAddr::from(from).to_canonical())),
            _ => Err("not an IPv6 address"),
        },
        _ => Err("unknown family"),
    }
}

/// Decimal, without leading zeros.
fn is_port(word: &str) -> bool {
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain && word.parse::<u16>().is_ok()
}

fn parse_v2(version_and_command: u8, family: u8, payload: &[u8]) -> Result<Announced, &'static str> {
    match version_and_command {
        // LOCAL: whatever the payload says is to be ignored.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err("unknown version or command"),
    }
    match family {
        // TCP over IPv4: two addresses, two ports; extensions may follow.
        0x11 if payload.len() >= 12 => {
            let from = payload.first_chunk::<4>().ok_or("no address")?;
            Ok(Some(Ipv4Addr::from(*from).into()))
        }
        0x21 if payload.len() >= 36 => {
            let from = payload.first_chunk::<16>().ok_or("no address")?;
            Ok(Some(IpAddr::from(Ipv6Addr::from(*from)).to_canonical()))
        }
        0x11 | 0x21 => Err("the payload is too short"),
        // UNSPEC: the receiver must accept and use the connection's own addresses.
        0x00 => Ok(None),
        _ => Err("not a TCP connection"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_now(mut bytes: &[u8]) -> (Result<Announced, String>, usize) {
        let before = bytes.len();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(&mut bytes)).map_err(|error| error.to_string());
        (read, before - bytes.len())
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, payload].concat()
    }

    #[test]
    fn a_header_names_the_client_and_what_follows_is_left_alone() {
        let four = [&[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4][..], &[0x03, 0, 1, 9]].concat();
        let six = [Ipv6Addr::LOCALHOST.octets(), Ipv6Addr::LOCALHOST.octets()].concat();
        let six = [&six[..], &[0, 1, 0, 2]].concat();
        for (header, client) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n".to_vec(), Some("2001:db8::1")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec(), Some("192.0.2.1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), None),
            (v2(0x21, 0x11, &four), Some("192.0.2.1")),
            (v2(0x21, 0x21, &six), Some("::1")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &four), None),
            (v2(0x21, 0x00, &[]), None),
        ] {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            let (read, taken) = read_now(&bytes);
            assert_eq!(read.unwrap(), client.map(|client| client.parse().unwrap()));
            assert_eq!(taken, header.len());
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for bad in [
            &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
            b"",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n\n\n\n\n\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n",
            b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
            b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
            long.as_bytes(),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x12, &[0; 12]),
            &v2(0x21, 0x31, &[0; 216]),
            &v2(0x21, 0x11, &[0; V2_PAYLOAD_BYTES_MAX + 1]),
            &V2_SIGNATURE,
        ] {
            assert!(read_now(bad).0.is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over_and_none_beyond_its_bounds_are_read(
            start in prop_oneof![Just(V2_SIGNATURE.to_vec()), Just(b"PROXY TCP4 ".to_vec()), Just(Vec::new())],
            rest in proptest::collection::vec(any::<u8>(), 0..4096),
        ) {
            let (_read, taken) = read_now(&[start, rest].concat());
            prop_assert!(taken <= V2_SIGNATURE.len() + 4 + V2_PAYLOAD_BYTES_MAX);
        }

        #[test]
        fn every_address_comes_through(from: [u8; 4], to: [u8; 4], ports: (u16, u16)) {
            let (from, to) = (Ipv4Addr::from(from), Ipv4Addr::from(to));
            let line = format!("PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1);
            prop_assert_eq!(read_now(line.as_bytes()).0, Ok(Some(IpAddr::from(from))));
        }
    }
}
