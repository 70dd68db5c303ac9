// SPDX-License-Identifier: Apache-2.0 OR MIT
//! QEMU's stub for debuggers (`-gdb unix:...`), as far as a hang must be made by it: it stops a guest, and sets registers of
//! each CPU. The protocol is appendix E of GDB's manual. A kernel as distributions ship it has nothing by which a program
//! could have it spin with interrupts off (CONFIG_TEST_LOCKUP and CONFIG_LKDTM are off).

use crate::deadline::Deadline;
use anyhow::{Context as _, bail, ensure};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// QEMU answers at once; a busy host may take longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at where the CPUs are, while the guest runs.
const LET_RUN: Duration = Duration::from_millis(10);
/// Longest answer: twice [`CHUNK`], and some.
const MAX_ANSWER: usize = 1 << 16;
/// Bytes that are read at once.
const CHUNK: u64 = 1 << 13;
/// Chunks on either side of where a CPU is that are searched for a place to spin.
const CHUNKS: u64 = 64;
/// `jmp .`: a CPU that is led there does not leave.
const SPIN: [u8; 2] = [0xeb, 0xfe];
const NO_PLACE: &str = "no `jmp .` is near any place where the guest's CPUs were found";
/// `hlt`
const HLT: u8 = 0xf4;
/// Registers by QEMU's numbers (gdb-xml/i386-64bit.xml).
const RIP: u32 = 16;
const EFLAGS: u32 = 17;
/// EFLAGS.IF
const INTERRUPTS: u32 = 1 << 9;
/// The kernel's half of the address space.
const KERNEL: u64 = 1 << 63;

/// A connected stub. As long as it is, and unless told to run, the guest stands still.
pub struct DebugStub {
    stream: UnixStream,
}

/// One CPU of the stopped guest.
struct Cpu {
    /// The stub's name for it.
    id: String,
    rip: u64,
    eflags: u32,
}

impl Cpu {
    fn is_in_kernel(&self) -> bool {
        self.rip & KERNEL != 0
    }
}

/// A CPU that was led to a place where it spins, and where it was before.
pub struct Spinning {
    cpu: Cpu,
    place: u64,
}

impl DebugStub {
    /// Connect, which stops the guest.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("QEMU's debug stub at {} does not answer", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut stub = Self { stream };
        // QEMU gives single registers only to whoever has asked how they are numbered.
        stub.ask("qXfer:features:read:target.xml:0,10")?;
        Ok(stub)
    }

    /// Have every CPU spin in the kernel with interrupts off, and let go of the guest. Waits until all are in the kernel: the
    /// memory of a program may go.
    pub fn spin_without_interrupts(mut self, deadline: Deadline) -> anyhow::Result<()> {
        let (cpus, place) = loop {
            let cpus = self.cpus_when(
                deadline,
                "the CPUs of the guest were never in the kernel together",
                |cpus| cpus.iter().all(Cpu::is_in_kernel),
            )?;
            let near = cpus.first().context("the guest has no CPU")?.rip;
            // In a module there is little text around.
            if let Some(place) = self.place_to_spin(near)? {
                break (cpus, place);
            }
            ensure!(!deadline.passed(), NO_PLACE);
            self.let_run()?;
        };
        for cpu in cpus {
            self.select(&cpu.id)?;
            self.jump(place)?;
            self.expect_ok(&format!("P{EFLAGS:x}={}", hex(&(cpu.eflags & !INTERRUPTS).to_le_bytes())))?;
        }
        self.expect_ok("D")
    }

    /// Have the last CPU spin in the kernel with interrupts on, and let go of the guest. It is led away from `hlt` in the idle
    /// task, which may not be taken for another one, so nothing else runs on it. In a system call it could be preempted, and
    /// would not be stuck.
    pub fn spin_one(mut self, deadline: Deadline) -> anyhow::Result<Spinning> {
        let cpu = loop {
            let cpus =
                self.cpus_when(deadline, "the last CPU of the guest was never in the kernel", |cpus| {
                    cpus.last().is_some_and(|cpu| cpu.is_in_kernel() && cpu.eflags & INTERRUPTS != 0)
                })?;
            let cpu = cpus.into_iter().next_back().context("the guest has no CPU")?;
            if self.is_halted(&cpu)? {
                break cpu;
            }
            ensure!(!deadline.passed(), "the last CPU of the guest was never idle");
            self.let_run()?;
        };
        let place = self.place_to_spin(cpu.rip)?.context(NO_PLACE)?;
        self.select(&cpu.id)?;
        self.jump(place)?;
        self.expect_ok("D")?;
        Ok(Spinning { cpu, place })
    }

    /// Have that CPU go on where it was: the jump changes nothing but the instruction pointer, which is put right while it is
    /// in no interrupt.
    pub fn release(mut self, spinning: &Spinning, deadline: Deadline) -> anyhow::Result<()> {
        let Spinning { cpu, place } = spinning;
        self.cpus_when(deadline, "the CPU does not spin any more", |cpus| {
            cpus.iter().any(|now| now.id == cpu.id && now.rip == *place)
        })?;
        self.select(&cpu.id)?;
        self.jump(cpu.rip)?;
        self.expect_ok("D")
    }

    /// Does it wait in `hlt`? Its instruction pointer is behind it then.
    fn is_halted(&mut self, cpu: &Cpu) -> anyhow::Result<bool> {
        let before = bytes(&self.ask(&format!("m{:x},1", cpu.rip.wrapping_sub(1)))?);
        Ok(before.as_deref() == Some(&[HLT]))
    }

    fn select(&mut self, cpu: &str) -> anyhow::Result<()> {
        self.expect_ok(&format!("Hg{cpu}"))
    }

    fn jump(&mut self, place: u64) -> anyhow::Result<()> {
        self.expect_ok(&format!("P{RIP:x}={}", hex(&place.to_le_bytes())))
    }

    /// The CPUs at a moment at which they are as wanted; between two looks the guest runs.
    fn cpus_when(
        &mut self,
        deadline: Deadline,
        problem: &'static str,
        wanted: impl Fn(&[Cpu]) -> bool,
    ) -> anyhow::Result<Vec<Cpu>> {
        loop {
            let cpus = self.cpus()?;
            if wanted(&cpus) {
                return Ok(cpus);
            }
            ensure!(!deadline.passed(), problem);
            self.let_run()?;
        }
    }

    /// Where each CPU is.
    fn cpus(&mut self) -> anyhow::Result<Vec<Cpu>> {
        let mut ids = Vec::new();
        let mut answer = self.ask("qfThreadInfo")?;
        while let Some(more) = answer.strip_prefix('m') {
            ids.extend(more.split(',').map(str::to_owned));
            answer = self.ask("qsThreadInfo")?;
        }
        ids.into_iter().map(|id| self.cpu(id)).collect()
    }

    fn cpu(&mut self, id: String) -> anyhow::Result<Cpu> {
        self.select(&id)?;
        let mut rip = [0; 8];
        self.register(RIP, &mut rip)?;
        let mut eflags = [0; 4];
        self.register(EFLAGS, &mut eflags)?;
        Ok(Cpu { id, rip: u64::from_le_bytes(rip), eflags: u32::from_le_bytes(eflags) })
    }

    fn register(&mut self, number: u32, into: &mut [u8]) -> anyhow::Result<()> {
        let answer = self.ask(&format!("p{number:x}"))?;
        let bytes = bytes(&answer).filter(|bytes| bytes.len() == into.len());
        into.copy_from_slice(
            &bytes.with_context(|| format!("register {number} of the guest is {answer:?}"))?,
        );
        Ok(())
    }

    /// Address of a [`SPIN`] in the kernel's text, as near as possible. It need not be an instruction there: a CPU that is led
    /// to it takes it for one.
    fn place_to_spin(&mut self, near: u64) -> anyhow::Result<Option<u64>> {
        let base = near & !(CHUNK - 1);
        for distance in 0..CHUNKS {
            for start in [base.wrapping_add(distance * CHUNK), base.wrapping_sub(distance * CHUNK)] {
                // An address that is not mapped is an error of its own.
                let text = bytes(&self.ask(&format!("m{start:x},{CHUNK:x}"))?).unwrap_or_default();
                if let Some(at) = text.windows(SPIN.len()).position(|window| window == SPIN) {
                    return Ok(Some(start + at as u64));
                }
            }
        }
        Ok(None)
    }

    /// Let the guest run for a moment.
    fn let_run(&mut self) -> anyhow::Result<()> {
        self.send("c")?;
        std::thread::sleep(LET_RUN);
        self.stream.write_all(&[3]).context("the debug stub takes no interrupt")?;
        // How it stopped.
        self.answer().map(drop)
    }

    fn expect_ok(&mut self, command: &str) -> anyhow::Result<()> {
        match self.ask(command)?.as_str() {
            "OK" => Ok(()),
            other => bail!("QEMU's debug stub answers `{command}` with {other:?}"),
        }
    }

    fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        self.send(command)?;
        self.answer().with_context(|| format!("no answer of QEMU's debug stub to `{command}`"))
    }

    fn send(&mut self, command: &str) -> anyhow::Result<()> {
        let packet = format!("${command}#{:02x}", checksum(command.as_bytes()));
        self.stream.write_all(packet.as_bytes()).context("QEMU's debug stub takes no command")
    }

    /// `$TEXT#SUM`, between acknowledgements.
    fn answer(&mut self) -> anyhow::Result<String> {
        while self.byte()? != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => text.push(byte),
            }
            ensure!(text.len() <= MAX_ANSWER, "an answer of more than {MAX_ANSWER} bytes");
        }
        let sum = [self.byte()?, self.byte()?];
        ensure!(sum == *format!("{:02x}", checksum(&text)).as_bytes(), "an answer with a wrong checksum");
        // Who is no longer there to take it shows at the next command; after the last one it does not matter.
        let _ = self.stream.write_all(b"+");
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// None if it is no run of bytes in hex: an error, `E14`.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A stub with two CPUs, the second of which is in a program at the first look, and in a system call at the second.
    /// Returns what it was told.
    fn serve(listener: &UnixListener, spinning: std::ops::Range<u32>) -> Vec<String> {
        let (stream, _) = listener.accept().unwrap();
        let mut peer = DebugStub { stream };
        let (mut told, mut looks, mut cpu, mut listed) = (Vec::new(), 0, 0, false);
        loop {
            let command = peer.answer().unwrap();
            let answer = match command.as_str() {
                "qfThreadInfo" => {
                    (looks, listed) = (looks + 1, false);
                    "m01".to_owned()
                }
                "qsThreadInfo" if listed => "l".to_owned(),
                "qsThreadInfo" => {
                    listed = true;
                    "m02".to_owned()
                }
                "Hg01" | "Hg02" => {
                    cpu = if command == "Hg01" { 0 } else { 1 };
                    "OK".to_owned()
                }
                "p10" if cpu == 1 && spinning.contains(&looks) => {
                    hex(&0xffff_ffff_8100_2002_u64.to_le_bytes())
                }
                "p10" if looks == 1 && cpu == 1 => hex(&0x40_1000_u64.to_le_bytes()),
                "p10" if looks == 2 && cpu == 1 => hex(&0xffff_ffff_8100_0456_u64.to_le_bytes()),
                "p10" => hex(&0xffff_ffff_8100_0123_u64.to_le_bytes()),
                "p11" => hex(&0x246_u32.to_le_bytes()),
                "c" => {
                    while peer.byte().unwrap() != 3 {}
                    "T02thread:01;".to_owned()
                }
                "mffffffff81000122,1" => "f4".to_owned(),
                "mffffffff81000455,1" => "90".to_owned(),
                "mffffffff81002000,2000" => hex(&[0x90, 0x0f, 0xeb, 0xfe]),
                command if command.starts_with('m') => "E14".to_owned(),
                command if command.starts_with("qXfer") => "m<?xml".to_owned(),
                "D" => {
                    peer.send("OK").unwrap();
                    return told;
                }
                command => {
                    told.push(format!("{cpu}: {command}"));
                    "OK".to_owned()
                }
            };
            peer.send(&answer).unwrap();
        }
    }

    #[test]
    fn every_cpu_is_led_to_a_jump_to_itself_with_interrupts_off_once_all_are_in_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("gdb");
        let listener = UnixListener::bind(&socket).unwrap();
        let peer = std::thread::spawn(move || serve(&listener, 0..0));
        let stub = DebugStub::connect(&socket).unwrap();
        stub.spin_without_interrupts(Deadline::after(Duration::from_secs(30))).unwrap();
        let told = peer.join().unwrap();
        let place = hex(&0xffff_ffff_8100_2002_u64.to_le_bytes());
        let flags = hex(&0x46_u32.to_le_bytes());
        let expected = [0, 1].map(|cpu| [format!("{cpu}: P10={place}"), format!("{cpu}: P11={flags}")]);
        assert_eq!(told, expected.concat());
    }

    #[test]
    fn one_cpu_spins_with_interrupts_on_and_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("gdb");
        let listener = UnixListener::bind(&socket).unwrap();
        // It comes back to the jump at the third look of the second debugger.
        let peer = std::thread::spawn(move || [serve(&listener, 0..0), serve(&listener, 3..4)]);
        let deadline = Deadline::after(Duration::from_secs(30));
        let spinning = DebugStub::connect(&socket).unwrap().spin_one(deadline).unwrap();
        DebugStub::connect(&socket).unwrap().release(&spinning, deadline).unwrap();
        let [led, released] = peer.join().unwrap();
        assert_eq!(led, [format!("1: P10={}", hex(&0xffff_ffff_8100_2002_u64.to_le_bytes()))]);
        assert_eq!(released, [format!("1: P10={}", hex(&0xffff_ffff_8100_0123_u64.to_le_bytes()))]);
    }

    #[test]
    fn an_error_is_no_memory() {
        assert_eq!(bytes("E14"), None);
        assert_eq!(bytes("0aFf"), Some(vec![10, 255]));
        assert_eq!(bytes(""), Some(vec![]));
    }
}
