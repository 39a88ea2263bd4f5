// SPDX-License-Identifier: Apache-2.0
//! The kernel's log, `/dev/kmsg`: Documentation/ABI/testing/dev-kmsg.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use super::{Host, ReadError, Reading};
use crate::signal::text::{escaped, unescape};

/// One line of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KmsgRecord {
    /// 0 (emergency) to 7 (debug).
    pub level: u8,
    pub sequence: u64,
    /// Since boot, by the kernel's local clock, which does not run while suspended.
    pub time: Duration,
    pub text: String,
}

/// A reader of the kernel's log that never waits.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
    path: std::path::PathBuf,
}

/// A record may not be longer than this (`CONSOLE_EXT_LOG_MAX` in kernel/printk/internal.h).
const MAX_RECORD: usize = 8192;

/// One drain takes no more than this, should somebody write to the log as fast as it is read.
const MAX_DRAIN: usize = 16_384;

impl Kmsg {
    /// Opens the log where the oldest record is.
    ///
    /// # Errors
    /// [`ReadError`]; without root it takes CAP_SYSLOG where `dmesg_restrict` is set.
    pub fn open(host: &Host) -> Reading<Self> {
        let path = host.root.join("dev/kmsg");
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        Ok(Kmsg { file: file.map_err(|e| ReadError::io(&path, e))?, path })
    }

    /// Opens the log behind its last record, for what is yet to come.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at_end(host: &Host) -> Reading<Self> {
        let mut k = Self::open(host)?;
        k.file.seek(SeekFrom::End(0)).map_err(|e| ReadError::io(&k.path, e))?;
        Ok(k)
    }

    /// All records since the last call. Records that the kernel overwrote before they were read are
    /// passed over: their sequence numbers are missing.
    ///
    /// # Errors
    /// [`ReadError::Io`]
    pub fn drain(&mut self) -> Reading<Vec<KmsgRecord>> {
        let mut records = Vec::new();
        let mut buf = [0u8; MAX_RECORD];
        while records.len() < MAX_DRAIN {
            match self.file.read(&mut buf) {
                Ok(0) => break,
                Ok(n) => records.extend(parse(&String::from_utf8_lossy(buf.get(..n).unwrap_or_default()))),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                // EPIPE: overwritten meanwhile; the next read gives the oldest that is left.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::EINTR)) => {}
                Err(e) => return Err(ReadError::io(&self.path, e)),
            }
        }
        Ok(records)
    }

    /// The last `n` records of the log.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::drain`].
    pub fn tail(host: &Host, n: usize) -> Reading<Vec<KmsgRecord>> {
        let mut all = Self::open(host)?.drain()?;
        let cut = all.len().saturating_sub(n);
        Ok(all.split_off(cut))
    }
}

/// `prefix,sequence,microseconds,flags[,…];text`, then lines ` KEY=value`. The prefix holds the level
/// in its lowest three bits.
fn parse(record: &str) -> Option<KmsgRecord> {
    let (head, body) = record.split_once(';')?;
    let mut fields = head.split(',');
    let prefix: u64 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let time = Duration::from_micros(fields.next()?.parse().ok()?);
    let level = u8::try_from(prefix & 7).unwrap_or(7);
    // The kernel writes a backslash, what is not printable and what is not ASCII as `\xHH` (append_char in
    // kernel/printk/printk.c).
    let text = unescape(body.lines().next().unwrap_or_default(), |_| true);
    let text = escaped(&text).into_owned();
    Some(KmsgRecord { level, sequence, time, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record of a real OOM kill, with the key lines that follow some.
    #[test]
    fn parses_a_record() {
        let r =
            parse("6,1234,5140900,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)\n SUBSYSTEM=mm\n").unwrap();
        assert_eq!((r.level, r.sequence, r.time), (6, 1234, Duration::from_micros(5_140_900)));
        assert_eq!(r.text, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)");
        assert_eq!(parse("12,1,2,-;user's").unwrap().level, 4);
        let text = |t: &str| parse(&format!("6,1,2,-;{t}")).unwrap().text;
        assert_eq!(text("oom_memcg=/system-backup\\x5cx2ddaily.slice"), "oom_memcg=/system-backup\\x2ddaily.slice");
        assert_eq!(text("oom_memcg=/gr\\xc3\\xb6\\xc3\\x9fe/in\\xc3ner"), "oom_memcg=/größe/in\\xc3ner");
    }

    /// The real log, where it may be read: in order, and the tail is its end.
    #[test]
    fn reads_the_real_log() {
        let host = Host::default();
        let Ok(mut k) = Kmsg::open(&host) else { return };
        let all = k.drain().unwrap();
        assert!(all.windows(2).all(|w| w[0].sequence < w[1].sequence));
        let tail = Kmsg::tail(&host, 3).unwrap();
        assert!(tail.len() <= 3);
        assert!(tail.last().map(|r| r.sequence) >= all.last().map(|r| r.sequence));
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn never_panics(text in "(?s)[0-9]{0,21},?[0-9]{0,21},?[0-9]{0,21},?.{0,40};?.{0,40}") {
            let _ = parse(&text);
        }
    }
}
