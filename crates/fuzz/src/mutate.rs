//! Makes new inputs out of old ones, by a seed.

/// Numbers that sit on borders: of bytes and words, of lengths and counts, of pages.
const BORDERS: &[u64] = &[
    0,
    1,
    7,
    8,
    127,
    128,
    255,
    256,
    4095,
    4096,
    32_767,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    512 << 20,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// A small generator: xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Every seed is another sequence.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 when that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        (self.number() >> 16) as usize % limit
    }
}

/// One to a few changes to an input. `others` lends pieces of other inputs.
pub fn mutate(random: &mut Random, input: &[u8], others: &[Vec<u8>], len_max: usize) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(4) {
        change(random, &mut bytes, others);
    }
    bytes.truncate(len_max);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    match random.below(11) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.number() as u8;
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(1 + random.below(8) as u8 * 31);
            }
        }
        3 => {
            let len = 1 << random.below(4);
            let number = border(random).to_le_bytes();
            overwrite(bytes, at, &number[..len]);
        }
        4 => {
            let len = 1 << random.below(4);
            let number = border(random).to_be_bytes();
            overwrite(bytes, at, &number[8 - len..]);
        }
        5 => {
            // A varint: lengths and tags of protobuf.
            let mut number = border(random);
            let mut varint = Vec::new();
            while number > 127 {
                varint.push(number as u8 | 128);
                number >>= 7;
            }
            varint.push(number as u8);
            bytes.splice(at..at, varint);
        }
        6 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        7 => {
            let len = 1 + random.below(12);
            let new: Vec<u8> = (0..len).map(|_| random.number() as u8).collect();
            bytes.splice(at..at, new);
        }
        8 => {
            let from = random.below(bytes.len());
            let end = (from + 1 + random.below(40)).min(bytes.len());
            let copy = bytes[from..end].to_vec();
            bytes.splice(at..at, copy);
        }
        9 => {
            if let Some(other) = others.get(random.below(others.len())) {
                let from = random.below(other.len());
                let end = (from + 1 + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
        }
        _ => {
            // The head of this one, the tail of another.
            if random.below(3) == 0
                && let Some(other) = others.get(random.below(others.len()))
            {
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            } else {
                bytes.truncate(at);
            }
        }
    }
}

fn border(random: &mut Random) -> u64 {
    let number = BORDERS[random.below(BORDERS.len())];
    match random.below(3) {
        0 => number.wrapping_add(1),
        1 => number.wrapping_sub(1),
        _ => number,
    }
}

fn overwrite(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (old, new) in bytes[at..].iter_mut().zip(new) {
        *old = *new;
    }
}
