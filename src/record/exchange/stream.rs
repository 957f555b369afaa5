//! An output without files: stdout, a pipe or a device. Its numbers begin at 1.
//!
//! Always holds: a line that was written in part is completed before another one. Fails with the system's error.

use std::io::{self, Write};

use super::{current::write_all, file::WrittenLines, lines};

/// Size of what is written at once, bytes; one line may exceed it.
const WRITE_SIZE: usize = 64 * 1024;

pub(super) struct LineStream {
    out: Box<dyn Write + Send>,
    seq: u64,
    /// The rest of a line that was written in part.
    unfinished: Vec<u8>,
    /// Whether that line describes a request.
    unfinished_record: bool,
}

impl LineStream {
    pub(super) fn new(out: impl Write + Send + 'static) -> LineStream {
        LineStream { out: Box::new(out), seq: 0, unfinished: Vec::new(), unfinished_record: false }
    }

    /// Lines of requests that were written in part.
    pub(super) fn unfinished_records(&self) -> u64 {
        u64::from(self.unfinished_record)
    }

    /// Numbers and writes the first lines of a chunk; returns how many.
    ///
    /// # Errors
    /// The system's, if nothing was written.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<WrittenLines> {
        let mut written = WrittenLines { bytes: 0, records: self.finish()? };
        let (mut numbered, mut seq) = (Vec::new(), self.seq);
        // Ends of the lines, in `numbered` and in the chunk.
        let mut ends = Vec::new();
        for line in lines::split(chunk) {
            if numbered.len() >= WRITE_SIZE {
                break;
            }
            seq += 1;
            lines::number(&mut numbered, line, seq);
            written.bytes += line.len();
            ends.push((numbered.len(), written.bytes));
        }
        let (done, failure) = write_all(&mut self.out, &numbered);
        let failure = failure.or(self.out.flush().err());
        let whole = ends.iter().take_while(|(end, _)| *end <= done).count();
        let before = whole.checked_sub(1).map_or((0, 0), |last| ends[last]);
        written.bytes = before.1;
        written.records += lines::count_records(&chunk[..before.1]);
        self.seq += whole as u64;
        if done > before.0 {
            let (end, taken) = ends[whole];
            self.unfinished = numbered[done..end].to_vec();
            self.unfinished_record = lines::count_records(&chunk[before.1..taken]) > 0;
            self.seq += 1;
            written.bytes = taken;
        }
        match failure {
            Some(error) if written == WrittenLines::default() => Err(error),
            _ => Ok(written),
        }
    }

    /// Completes a line that was written in part; returns how many records that were.
    fn finish(&mut self) -> io::Result<u64> {
        let (done, failure) = write_all(&mut self.out, &self.unfinished);
        self.unfinished.drain(..done);
        match failure {
            Some(error) => Err(error),
            None => Ok(u64::from(std::mem::take(&mut self.unfinished_record))),
        }
    }
}
