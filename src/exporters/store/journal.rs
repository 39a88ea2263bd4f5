// SPDX-License-Identifier: Apache-2.0
//! Looks a fjall journal over before fjall opens it. Where a tag or a length is damaged, fjall
//! takes the rest of the file for a torn tail and cuts it off; entries that were accepted would be
//! gone without a word. A torn tail holds no complete batch, damage is followed by some.
//!
//! The format is fjall's V3: `src/journal/entry.rs` of fjall 3.1.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Ends each complete batch.
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Whether each journal below `store` is whole, but for a tail that was being written.
pub(super) fn is_whole(store: &Path) -> io::Result<bool> {
    for file in std::fs::read_dir(store)? {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "jnl") && !file_is_whole(&path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn file_is_whole(path: &Path) -> io::Result<bool> {
    let mut r = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let len = r.get_ref().metadata()?.len();
    let mut pos = 0;
    while let Some(size) = next_item(&mut r, len - pos)? {
        pos += size;
    }
    r.seek(SeekFrom::Start(pos))?;
    Ok(!holds_trailer(&mut r)?)
}

/// Skips one item and returns its size; `None` where no item begins or it does not fit `left`.
fn next_item(r: &mut BufReader<File>, left: u64) -> io::Result<Option<u64>> {
    let mut tag = [0];
    if left == 0 || r.read_exact(&mut tag).is_err() {
        return Ok(None);
    }
    let (header, body) = match tag[0] {
        START => (0, 4 + 8),
        CLEAR => (0, 8),
        END => return trailer(r, left),
        ITEM => {
            // Value type, compression, keyspace, key's length, value's length, its length on disk.
            let mut h = [0; 1 + 1 + 8 + 2 + 4 + 4];
            if r.read_exact(&mut h).is_err() {
                return Ok(None);
            }
            let key = u64::from(u16::from_le_bytes([h[10], h[11]]));
            (h.len() as u64, key + u64::from(u32::from_le_bytes([h[16], h[17], h[18], h[19]])))
        }
        _ => return Ok(None),
    };
    let size = 1 + header + body;
    if size > left {
        return Ok(None);
    }
    r.seek_relative(i64::try_from(body).unwrap_or(i64::MAX))?;
    Ok(Some(size))
}

fn trailer(r: &mut BufReader<File>, left: u64) -> io::Result<Option<u64>> {
    let mut end = [0; 8 + 4];
    let size = 1 + end.len() as u64;
    if size > left {
        return Ok(None);
    }
    r.read_exact(&mut end)?;
    Ok((end[8..] == TRAILER).then_some(size))
}

fn holds_trailer(r: &mut impl Read) -> io::Result<bool> {
    let mut buf = vec![0; 64 * 1024];
    let mut kept = 0;
    loop {
        let n = r.read(&mut buf[kept..])?;
        if n == 0 {
            return Ok(false);
        }
        let end = kept + n;
        if buf[..end].windows(TRAILER.len()).any(|w| w == TRAILER) {
            return Ok(true);
        }
        // A trailer may lie across two reads.
        kept = end.min(TRAILER.len() - 1);
        buf.copy_within(end - kept..end, 0);
    }
}
