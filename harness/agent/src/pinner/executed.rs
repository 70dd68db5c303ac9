// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program of the user's that pins: a process for each region, asked by lines (`longpin_proto::pinner`). It gets the
//! file and maps it itself. What it does wrong is a step that failed, never a fact about the kernel.

use super::PinRequest;
use super::copier::{Arrived, Hold};
use crate::error::{OrRefused, StepError, failed, refused};
use longpin_pinner::{Client, Patience, Trouble};
use longpin_proto::pinner::{Answer, Ask};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::path::Path;

/// A pinner that has pinned.
#[derive(Debug)]
pub struct Executed {
    client: Client,
    /// Where it finds the bytes that it is to write.
    bytes: OwnedFd,
    name: String,
    description: String,
}

impl Executed {
    /// Start the program and have it pin.
    pub fn pin(program: &Path, request: &PinRequest) -> Result<Self, StepError> {
        let Some(file) = &request.file else {
            return failed!("a pinner of yours pins shared mappings of files, and this memory is of none");
        };
        let bytes = rustix::fs::memfd_create("longpin-dma", MemfdFlags::CLOEXEC).or_failed("memfd_create")?;
        rustix::fs::ftruncate(&bytes, request.len).or_failed("ftruncate(memfd)")?;
        let started = Client::start(program, file.as_fd(), bytes.as_fd(), Patience::default());
        let (client, name) = started.map_err(wrong)?;
        let mut this = Self { client, bytes, name: name.to_string(), description: String::new() };
        this.ask(&Ask::Pin { offset: request.file_offset, len: request.len })?;
        this.description = this.ask(&Ask::Describe)?;
        Ok(this)
    }

    fn ask(&mut self, ask: &Ask) -> Result<String, StepError> {
        match self.client.request(ask).map_err(wrong)? {
            Answer::Ok(text) => Ok(text),
            Answer::Errno { number, call } => Err(refused(number, &format!("pinner {}: {call}", self.name))),
        }
    }
}

fn wrong(trouble: Trouble) -> StepError {
    StepError::Failed(trouble.to_string())
}

impl Hold for Executed {
    fn by(&self) -> String {
        format!("{}: {}", self.name, self.description)
    }

    fn can_write(&self, _offset: u64, _len: u64) -> Result<(), StepError> {
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<Arrived, StepError> {
        let mut at = 0;
        while at < bytes.len() {
            at += rustix::io::pwrite(&self.bytes, &bytes[at..], at as u64).or_failed("pwrite(memfd)")?;
        }
        self.ask(&Ask::Dma { offset, len: bytes.len() as u64, at: 0 }).map(|_| Arrived::There)
    }

    fn release(mut self: Box<Self>, dirty: bool) -> Result<(), StepError> {
        self.ask(&Ask::Release { dirty })?;
        self.client.quit().map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::PAGE_BYTES;
    use longpin_proto::agent::PinMode;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    /// One in sh that notes what it was asked, and copies with dd what it is to write.
    const TALE: &str = r#"#!/bin/sh
while read -r line; do
    echo "$line" >>"$0.log"
    case "$line" in
    hello*) echo pinner 1 tale 7 ;;
    describe) echo ok by nobody ;;
    dma*)
        set -- "$1" "$2" $line
        dd if=/proc/self/fd/"$2" of=/proc/self/fd/"$1" bs=4096 conv=notrunc status=none \
            seek=$(($4 / 4096 + 1)) skip=$(($6 / 4096)) count=$(($5 / 4096))
        echo ok
        ;;
    quit) exit 0 ;;
    *) echo "${ANSWER:-ok}" ;;
    esac
done
"#;

    fn request(file: Option<Arc<OwnedFd>>) -> PinRequest {
        let (len, file_offset, run) = (2 * PAGE_BYTES, PAGE_BYTES, 1);
        PinRequest { address: 0, len, mode: PinMode::Exec, file_offset, run, file }
    }

    fn story(text: &str) -> (tempfile::TempDir, std::path::PathBuf, Arc<OwnedFd>) {
        let dir = tempfile::tempdir().expect("directory");
        let program = dir.path().join("tale");
        std::fs::write(&program, text).expect("script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let file = tempfile::tempfile().expect("file");
        file.set_len(4 * PAGE_BYTES).expect("length");
        (dir, program, Arc::new(file.into()))
    }

    fn pin(program: &Path, request: &PinRequest) -> Result<Executed, StepError> {
        loop {
            match Executed::pin(program, request) {
                // A child of another test has the script open for writing until it calls exec.
                Err(StepError::Failed(text)) if text.contains("busy") => {}
                other => return other,
            }
        }
    }

    #[test]
    fn it_is_told_everything_in_order_and_finds_the_bytes() {
        let (dir, program, file) = story(TALE);
        let mut pin = Box::new(pin(&program, &request(Some(file.clone()))).unwrap());
        assert_eq!(pin.by(), "tale 7: by nobody");
        pin.write(PAGE_BYTES, &[7; PAGE_BYTES as usize]).unwrap();
        let mut seen = vec![0; 4 * PAGE_BYTES as usize];
        rustix::io::pread(&file, &mut seen[..], 0).unwrap();
        let pages: Vec<u8> = seen.chunks(PAGE_BYTES as usize).map(|page| page[100]).collect();
        assert_eq!(pages, [0, 0, 7, 0]);
        pin.release(true).unwrap();
        let log = std::fs::read_to_string(dir.path().join("tale.log")).unwrap();
        assert_eq!(log, "hello 1\npin 4096 8192\ndescribe\ndma 4096 4096 0\nrelease dirty\nquit\n");
    }

    #[test]
    fn an_errno_is_a_refusal_with_its_name_and_trouble_is_not() {
        let (_dir, program, file) = story(&TALE.replace("${ANSWER:-ok}", "errno 14 ioctl(PIN)"));
        let Err(StepError::Refused(errno)) = pin(&program, &request(Some(file.clone()))) else {
            panic!("pinned")
        };
        assert_eq!((errno.name.as_str(), errno.call.as_str()), ("EFAULT", "pinner tale 7: ioctl(PIN)"));
        let (_dir, program, _) = story(&TALE.replace("${ANSWER:-ok}", "$(kill -KILL $$)"));
        let Err(StepError::Failed(text)) = pin(&program, &request(Some(file))) else { panic!("pinned") };
        assert_eq!(text, "pinner tale 7 ended (signal 9) when it was asked to `pin 4096 8192`");
    }

    #[test]
    fn memory_of_no_file_cannot_be_given_to_another_process() {
        let Err(StepError::Failed(text)) = Executed::pin(Path::new("/nowhere"), &request(None)) else {
            panic!("pinned")
        };
        assert!(text.contains("this memory is of none"), "{text}");
    }
}
