//! Cutting a torn tail off the last segment, keeping a copy of what was there.

use std::path::Path;

use crate::error::{Error, io};
use crate::fs::{Fs, Open};
use crate::reader::{LogReader, segments};

/// Bytes copied at once into the `.broken` file.
const COPY_BYTES: usize = 1 << 20;

/// Truncates the last segment after its last good record if it ends in a torn one. Any other damage
/// is returned as it is: repairing it would lose what may have been acknowledged.
pub(crate) fn repair(fs: &dyn Fs, dir: &Path) -> Result<(), Error> {
    let all = segments(fs, dir)?;
    let Some(last) = all.last() else {
        return Err(Error::NotFound { dir: dir.into() });
    };
    let path = dir.join(&last.name);
    let file = fs.open(&path, Open::Write).map_err(io("open", &path))?;
    file.try_lock().map_err(io("lock", &path))?;
    let mut reader = LogReader::open(fs, dir, std::slice::from_ref(last))?;
    let offset = loop {
        match reader.next() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(Error::UnexpectedEof { offset, .. }) => break offset,
            Err(error) => return Err(error),
        }
    };

    let copy_path = dir.join(format!("{}.broken", last.name));
    let copy = fs
        .open(&copy_path, Open::Create)
        .map_err(io("create", &copy_path))?;
    let mut block = vec![0; COPY_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(at, &mut block).map_err(io("read", &path))?;
        if read == 0 {
            break;
        }
        copy.write_at(at, &block[..read])
            .map_err(io("write", &copy_path))?;
        at += read as u64;
    }
    copy.sync().map_err(io("sync", &copy_path))?;
    fs.sync_dir(dir).map_err(io("sync", dir))?;

    file.set_len(offset).map_err(io("truncate", &path))?;
    file.sync().map_err(io("sync", &path))
}
