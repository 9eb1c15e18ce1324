//! Recordings in formats that are not decoded here, through an `ffmpeg` on `PATH`.

use std::ffi::OsString;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use super::pcm::PcmReader;
use super::{Fault, Source, wav};

/// Containers that hold their own sound. Play lists and scripts, through which a file could make ffmpeg open other
/// files or addresses, are not among them.
const CONTAINERS: &str = "aa,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,\
    gsm,iff,loas,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,mxf,nut,ogg,oma,qcp,rm,\
    sbc,shn,sln,sox,spdif,tak,truehd,tta,voc,w64,wav,wtv,wv,xwma";
/// How much of ffmpeg's complaints is kept.
const MAX_COMPLAINT_BYTES: u64 = 4096;

/// Starts ffmpeg on a file, which messages call `name`; `reason` is why the decoders in this program cannot read it.
///
/// The output is wav at the file's own rate and channels, so that mixing and resampling stay ours.
pub(super) fn open(path: &Path, name: &str, reason: &str) -> Result<Box<dyn Source>, Fault> {
    // `file:` in front keeps a name such as `-y` or `http:x` from being an option or an address.
    let mut input = OsString::from("file:");
    input.push(path);
    let child = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error"])
        .args(["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i"])
        .arg(input)
        .args(["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(format!("{reason}; ffmpeg, which may read it, is not installed"));
        }
        Err(e) => return Err(format!("cannot start ffmpeg: {e}")),
    };
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err("cannot read from ffmpeg".into());
    };
    let mut process = Process { child, complaint: Some(std::thread::spawn(|| collect(stderr))) };
    match wav::open(BufReader::new(stdout)) {
        Ok(samples) => Ok(Box::new(Ffmpeg { samples, process, name: name.to_string(), any: false })),
        // Without a header there is no sound; what ffmpeg says about it is the better explanation.
        Err(_) => Err(format!("{reason}; ffmpeg: {}", process.complaint())),
    }
}

struct Ffmpeg {
    samples: PcmReader,
    process: Process,
    name: String,
    any: bool,
}

impl Source for Ffmpeg {
    fn next_block(&mut self, mono: &mut Vec<f32>) -> Result<Option<u32>, Fault> {
        if let Some(rate) = self.samples.next_block(mono)? {
            self.any = true;
            return Ok(Some(rate));
        }
        let status = self.process.child.wait().map_err(|e| format!("waiting for ffmpeg: {e}"))?;
        if status.success() {
            return Ok(None);
        }
        let complaint = self.process.complaint();
        if !self.any {
            return Err(format!("ffmpeg cannot decode it: {complaint}"));
        }
        tracing::warn!("{}: damaged or cut off, what follows is lost: {complaint}", self.name);
        Ok(None)
    }

    fn duration_ms(&self) -> Option<u64> {
        None
    }
}

/// A running ffmpeg; dropping it stops the program.
struct Process {
    child: Child,
    complaint: Option<JoinHandle<String>>,
}

impl Process {
    /// The last line that ffmpeg wrote before it ended.
    fn complaint(&mut self) -> String {
        let text = self.complaint.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        text.lines().last().unwrap_or("it gives no reason").trim().to_string()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if the program has already ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the start of the error output and reads the rest away, or ffmpeg would wait for a reader.
fn collect(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let _ = (&mut stderr).take(MAX_COMPLAINT_BYTES).read_to_end(&mut kept);
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
