//! Numbers and fixed-size records of the file format: page header, meta, element sizes, checksum.
//!
//! Owns the byte positions. Must never do I/O. See `docs/formats/database.md`.

/// Bytes of a page header: id u64, flags u16, count u16, overflow u32.
pub(crate) const PAGE_HEADER: usize = 16;
/// Bytes of one entry of an element table, leaf and branch alike.
pub(crate) const ELEMENT: usize = 16;
/// Bytes of a bucket's value before an inline page: root u64, sequence u64.
pub(crate) const BUCKET_HEADER: usize = 16;
/// Bytes of a meta record, its checksum included.
pub(crate) const META: usize = 64;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;

/// A leaf element whose value is a bucket.
pub(crate) const ELEMENT_BUCKET: u32 = 0x01;

/// `freelist` of a meta whose free list is not stored.
pub(crate) const NO_FREELIST: u64 = u64::MAX;
pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;

/// Longest key or bucket name, in bytes.
pub const MAX_KEY_BYTES: usize = 32_768;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = (1 << 31) - 2;

pub(crate) const PAGE_SIZE_MIN: usize = 1024;
pub(crate) const PAGE_SIZE_MAX: usize = 65_536;
pub(crate) const PAGE_SIZE_DEFAULT: usize = 4096;

/// No tree of a file that fits a disk is deeper; past it the pages form a loop.
pub(crate) const DEPTH_MAX: usize = 64;

const _: () = assert!(META == 4 * 4 + 6 * 8);

pub(crate) fn u16_at(buf: &[u8], at: usize) -> u16 {
    let mut b = [0; 2];
    b.copy_from_slice(&buf[at..at + 2]);
    u16::from_le_bytes(b)
}

pub(crate) fn u32_at(buf: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&buf[at..at + 4]);
    u32::from_le_bytes(b)
}

pub(crate) fn u64_at(buf: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&buf[at..at + 8]);
    u64::from_le_bytes(b)
}

/// The first 16 bytes of a page, as they lie; nothing in it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    pub overflow: u32,
}

impl PageHeader {
    /// `buf` holds at least [`PAGE_HEADER`] bytes.
    pub fn read(buf: &[u8]) -> PageHeader {
        PageHeader {
            id: u64_at(buf, 0),
            flags: u16_at(buf, 8),
            count: u16_at(buf, 10),
            overflow: u32_at(buf, 12),
        }
    }

    pub fn write(self, buf: &mut [u8]) {
        buf[0..8].copy_from_slice(&self.id.to_le_bytes());
        buf[8..10].copy_from_slice(&self.flags.to_le_bytes());
        buf[10..12].copy_from_slice(&self.count.to_le_bytes());
        buf[12..16].copy_from_slice(&self.overflow.to_le_bytes());
    }
}

/// One of the two roots of the file. The valid one with the larger transaction number rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_size: u32,
    /// Page of the root bucket's tree.
    pub root: u64,
    /// Sequence counter of the root bucket.
    pub sequence: u64,
    /// Page of the stored free list, or [`NO_FREELIST`].
    pub freelist: u64,
    /// One past the highest page ever handed out: pages in the file.
    pub high_water: u64,
    pub txid: u64,
}

impl Meta {
    /// Reads a meta record (after the page header); the error says why it does not count.
    pub fn read(buf: &[u8]) -> Result<Meta, String> {
        if buf.len() < META {
            return Err(format!("{} bytes are too few", buf.len()));
        }
        let magic = u32_at(buf, 0);
        if magic != MAGIC {
            return Err(format!("magic number {magic:#010x}, wanted {MAGIC:#010x}"));
        }
        let version = u32_at(buf, 4);
        if version != VERSION {
            return Err(format!("format version {version}, wanted {VERSION}"));
        }
        let stored = u64_at(buf, 56);
        let computed = fnv1a64(&buf[..56]);
        if stored != computed {
            return Err(format!(
                "checksum {stored:#018x}, computed {computed:#018x}"
            ));
        }
        Ok(Meta {
            page_size: u32_at(buf, 8),
            root: u64_at(buf, 16),
            sequence: u64_at(buf, 24),
            freelist: u64_at(buf, 32),
            high_water: u64_at(buf, 40),
            txid: u64_at(buf, 48),
        })
    }

    /// The whole meta page for slot 0 or 1, padded with zeros.
    pub fn page(&self, slot: u64) -> Vec<u8> {
        let mut page = vec![0; self.page_size as usize];
        PageHeader {
            id: slot,
            flags: FLAG_META,
            count: 0,
            overflow: 0,
        }
        .write(&mut page);
        let m = &mut page[PAGE_HEADER..PAGE_HEADER + META];
        m[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        m[4..8].copy_from_slice(&VERSION.to_le_bytes());
        m[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        m[16..24].copy_from_slice(&self.root.to_le_bytes());
        m[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        m[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        m[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        m[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let sum = fnv1a64(&m[..56]);
        m[56..64].copy_from_slice(&sum.to_le_bytes());
        page
    }
}

pub(crate) fn page_size_ok(size: usize) -> bool {
    size.is_power_of_two() && (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&size)
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The four pages of a new, empty database: two metas, an empty free list, an empty root leaf.
pub(crate) fn initial_image(page_size: usize) -> Vec<u8> {
    let mut image = Vec::with_capacity(4 * page_size);
    for txid in 0..2 {
        let meta = Meta {
            page_size: page_size as u32,
            root: 3,
            sequence: 0,
            freelist: 2,
            high_water: 4,
            txid,
        };
        image.extend_from_slice(&meta.page(txid));
    }
    for (id, flags) in [(2, FLAG_FREELIST), (3, FLAG_LEAF)] {
        let at = image.len();
        image.resize(at + page_size, 0);
        PageHeader {
            id,
            flags,
            count: 0,
            overflow: 0,
        }
        .write(&mut image[at..]);
    }
    image
}
