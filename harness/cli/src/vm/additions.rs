// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the user adds to the command lines of kernel and QEMU. What longpin itself sets there is refused: the later word
//! would win without a sound, and a run would wait for a console, a disk or an end that never comes.

use super::command_line;
use std::ffi::{OsStr, OsString};

/// Additions of a run, checked.
#[derive(Debug, Clone, Default)]
pub struct Additions {
    /// Words behind those of the kernel's command line.
    pub kernel_words: Vec<String>,
    /// Arguments behind those of QEMU.
    pub qemu_args: Vec<OsString>,
}

/// x86's COMMAND_LINE_SIZE, with the zero at the end: the kernel cuts off what is behind it.
const KERNEL_LINE_BYTES: usize = 2048;

/// Keys of the kernel's command line that are not the user's, and why.
const KERNEL_KEYS: [(&str, &str); 16] = [
    ("console", "longpin reads the console on ttyS0"),
    ("earlyprintk", "longpin reads the console on ttyS0, from the begin on"),
    ("panic", "a panic must end the guest, or it would count as a hang"),
    ("no_timer_check", "longpin has it there already"),
    ("tsc", "longpin turns the clocksource watchdog off, or a guest may hang in its boot"),
    ("loglevel", "the console is evidence from level 5 on; /dev/kmsg has all levels"),
    ("quiet", "the console is evidence from level 5 on"),
    ("log_buf_len", "longpin gives the log 4 MiB"),
    ("printk.devkmsg", "the agent writes its marks there"),
    ("sysrq_always_enabled", "longpin has it there already"),
    ("unknown_nmi_panic", "longpin has it there already"),
    ("panic_print", "longpin asks for the backtraces of all CPUs"),
    ("init", "the guest's first process is longpin's agent"),
    ("rdinit", "the guest's first process is longpin's agent"),
    ("initrd", "the guest boots into longpin's initramfs; --overlay adds to it"),
    ("noinitrd", "the guest boots into longpin's initramfs"),
];

/// Options of QEMU that are not the user's, and what to do instead.
const QEMU_OPTIONS: [(&str, &str); 12] = [
    ("kernel", "name the kernel with --kernel"),
    ("append", "give more words with --append"),
    ("initrd", "add files with --overlay"),
    ("m", "give the memory with --memory"),
    ("smp", "give the CPUs with --cpus"),
    ("accel", "choose it with --accel"),
    ("enable-kvm", "choose it with --accel kvm"),
    ("qmp", "longpin's own must be the only one; leave it out"),
    ("daemonize", "longpin watches the process that it started; leave it out"),
    ("S", "nobody would start the guest; leave it out"),
    ("no-shutdown", "the end of the guest must end QEMU; leave it out"),
    ("snapshot", "the host reads the images of disks while the guest runs; leave it out"),
];

/// Words of `--append`, as one text.
pub fn kernel_words(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_control()) {
        return Err("it has a control character; use plain words with spaces between them".into());
    }
    let words = words(text)?;
    if words.is_empty() {
        return Err("it is empty; give words such as `slab_nomerge`, or leave it out".into());
    }
    for word in &words {
        if matches!(*word, "-" | "--") {
            return Err(format!("what follows `{word}` would go to the guest's first process; leave it out"));
        }
        // The kernel takes both for the same (parameq()).
        let key = word.split('=').next().unwrap_or_default().trim_matches('"').replace('-', "_");
        if let Some((_, why)) = KERNEL_KEYS.iter().find(|(ours, _)| *ours == key) {
            return Err(format!("`{key}` is longpin's to set: {why}; leave it out"));
        }
    }
    Ok(words.join(" "))
}

/// As the kernel cuts them: at spaces outside of quotes (next_arg()).
fn words(text: &str) -> Result<Vec<&str>, String> {
    let mut quoted = false;
    let words = text.split(|c: char| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    });
    let words = words.filter(|word| !word.is_empty()).collect();
    match quoted {
        true => Err("a quotation mark is not closed; close it".into()),
        false => Ok(words),
    }
}

/// One argument of `--qemu-arg`.
pub fn qemu_arg(arg: OsString) -> Result<OsString, String> {
    // QEMU takes one dash or two.
    let option = arg.to_str().and_then(|arg| arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')));
    let option = option.map(|option| option.split('=').next().unwrap_or_default());
    match QEMU_OPTIONS.iter().find(|(ours, _)| Some(*ours) == option) {
        Some((ours, fix)) => Err(format!("`-{ours}` is longpin's to set: {fix}")),
        None if arg == OsStr::new("") => Err("it is empty; give an option of QEMU or its value".into()),
        None => Ok(arg),
    }
}

impl Additions {
    /// Errors: the kernel would cut its command line, which has `of_case` too.
    pub fn check(&self, of_case: &[String]) -> Result<(), String> {
        let words = of_case.iter().chain(&self.kernel_words).map(String::as_str);
        match command_line::kernel_line(words).len() {
            0..KERNEL_LINE_BYTES => Ok(()),
            bytes => Err(format!(
                "--append: with longpin's own words the kernel's command line has {bytes} bytes, and the kernel reads {}; \
                 give fewer words",
                KERNEL_LINE_BYTES - 1
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_as_the_kernel_takes_them() {
        assert_eq!(kernel_words("  a=1  b.c=\"x y\" ").unwrap(), "a=1 b.c=\"x y\"");
        assert_eq!(kernel_words("dyndbg=\"console=1 +p\"").unwrap(), "dyndbg=\"console=1 +p\"");
        for (text, part) in [
            ("", "it is empty"),
            ("a\nb", "control character"),
            ("a=\"b", "not closed"),
            ("a -- b", "first process"),
            ("a console=ttyS1", "`console` is longpin's to set"),
            ("\"console=ttyS1\"", "`console` is longpin's to set"),
            ("log-buf-len=1M", "`log_buf_len` is longpin's to set"),
            ("rdinit=/bin/sh", "longpin's agent; leave it out"),
        ] {
            let error = kernel_words(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn every_word_of_ours_is_refused() {
        for word in command_line::KERNEL_ARGS {
            let error = kernel_words(word).unwrap_err();
            assert!(error.contains("longpin's to set"), "{word}: {error}");
        }
    }

    #[test]
    fn a_line_that_the_kernel_would_cut_is_refused() {
        let with = |len: usize| Additions { kernel_words: vec!["x".repeat(len)], ..Additions::default() };
        let own = command_line::kernel_line(["of=case"]).len() + 1;
        with(KERNEL_LINE_BYTES - 1 - own).check(&["of=case".into()]).unwrap();
        let error = with(KERNEL_LINE_BYTES - own).check(&["of=case".into()]).unwrap_err();
        assert!(error.contains("has 2048 bytes, and the kernel reads 2047"), "{error}");
    }

    #[test]
    fn options_of_qemu_that_are_ours_are_refused_with_the_option_to_use() {
        for (arg, part) in
            [("-kernel", "--kernel"), ("--m", "--memory"), ("-S", "leave it out"), ("", "empty")]
        {
            let error = qemu_arg(arg.into()).unwrap_err();
            assert!(error.contains(part), "{arg}: {error}");
        }
        for arg in ["-device", "edu", "-msg", "timestamp=on", "kernel"] {
            assert_eq!(qemu_arg(arg.into()).unwrap(), arg);
        }
    }
}
