//! Inputs made of good ones: bytes flipped, cut, doubled, moved, and pieces of other good inputs and of a dictionary put in.

/// xorshift64*: small, seeded, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `end`, which may be zero.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap() }
    }
}

/// Values at which parsers change their mind.
const EDGES: [u8; 16] = [0, 1, 9, 10, 13, 32, 34, 37, 46, 47, 92, 123, 127, 128, 254, 255];
const PIECES: [&[u8]; 24] = [
    b"%2e",
    b"%2F",
    b"%5c",
    b"%00",
    b"%",
    b"..",
    b"//",
    b";a=b",
    b"\\u0000",
    b"null",
    b"-1",
    b"1e9",
    b"0x",
    b"00",
    b"18446744073709551616",
    b"{",
    b"[[[[[[[[",
    b"\"",
    b"\xc0\x80",
    b"\xff\xfe",
    b"://",
    b"\r\n",
    b"=",
    b"\x80\x80\x80\x80\x10",
];
/// Longest input; what parsers take is shorter.
const BYTES_MAX: usize = 96 * 1024;

/// A good input with one to eight changes.
pub fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(8) {
        change(random, corpus, &mut input);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(random: &mut Random, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = random.below(input.len() + 1);
    let to = (at + random.below(32)).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = EDGES[random.below(EDGES.len())],
        2 => input.truncate(at),
        3 => drop(input.drain(at..to)),
        4 => {
            let piece = input[at..to].repeat(1 + random.below(64));
            input.splice(at..at, piece);
        }
        5 => {
            let piece = PIECES[random.below(PIECES.len())];
            input.splice(at..to.min(at + piece.len()).max(at), piece.iter().copied());
        }
        6 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            let end = (from + random.below(256)).min(other.len());
            input.splice(at..to, other[from..end].iter().copied());
        }
        7 => input.insert(at, u8::try_from(random.below(256)).unwrap()),
        _ if to > at + 1 => input[at..to].reverse(),
        _ => {}
    }
}
