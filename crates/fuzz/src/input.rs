//! Takes an input apart: numbers, choices and pieces, which all can be had from any bytes. What is read
//! past the end is zero, so that every input means something.

/// An input that is being read.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { rest: bytes }
    }

    /// Whether everything was read.
    pub fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        number % limit
    }

    /// Eight bytes, least significant first.
    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }

    /// A piece with its length before it, in one byte, or in two from 240 on.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = match self.byte() {
            short @ 0..240 => usize::from(short),
            long => usize::from(long - 240) << 8 | usize::from(self.byte()),
        };
        self.take(len)
    }

    /// What is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (piece, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        piece
    }
}

/// Writes what [`Input::piece`] reads.
pub fn put_piece(out: &mut Vec<u8>, piece: &[u8]) {
    let piece = &piece[..piece.len().min(0xfff)];
    if piece.len() < 240 {
        out.push(piece.len() as u8);
    } else {
        out.extend([240 | (piece.len() >> 8) as u8, piece.len() as u8]);
    }
    out.extend_from_slice(piece);
}
