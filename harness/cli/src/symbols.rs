// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lines of source for what the kernel reports about itself, by debug information: that of a kernel's own directory, of
//! longpin.ko and of modules that a user brings. The tool root's readelf and addr2line read it.

use crate::child::Child;
use crate::deadline::Deadline;
use crate::images::{Brought, Driver, Images};
use anyhow::{Context as _, bail};
use longpin_core::dmesg::frames::Frame;
use longpin_images::{Bind, ToolRoot};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The debug information of a kernel is half a gigabyte.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Where longpin.ko is built.
const MODULE_SOURCE: &str = "/longpin/source";

/// Where debug information may be.
pub struct Symbols<'a> {
    tool_root: &'a ToolRoot,
    /// Files, by the name of the module; the kernel itself has none.
    objects: BTreeMap<Option<String>, PathBuf>,
    /// modules.dep, for modules that nobody named.
    modules: PathBuf,
    /// Beginnings of paths that say nothing.
    bases: Vec<String>,
    /// What was looked up; the same happens in many cases.
    known: BTreeMap<Vec<Frame>, Vec<String>>,
}

impl<'a> Symbols<'a> {
    /// Of a guest's kernel and modules.
    pub fn of(images: &'a Images) -> Self {
        let Brought { driver, modules, .. } = &images.brought;
        let mut objects: BTreeMap<_, _> =
            modules.iter().chain(driver).map(|it| (Some(stem(&it.path)), it.path.clone())).collect();
        if let Driver::Module(module) = &images.driver {
            objects.insert(Some(module.name()), module.path().to_owned());
        }
        let build_dir = images.kernel.build_dir();
        objects.extend(build_dir.map(|dir| (None, dir.join("vmlinux"))).filter(|(_, file)| file.is_file()));
        let dirs = build_dir
            .into_iter()
            .flat_map(|dir| [Some(dir.to_owned()), fs::canonicalize(dir.join("source")).ok()]);
        let mut bases: Vec<String> = dirs.flatten().map(|dir| dir.display().to_string()).collect();
        bases.push(MODULE_SOURCE.to_owned());
        Self {
            tool_root: &images.tool_root,
            objects,
            modules: images.kernel.modules_dir(),
            bases,
            known: BTreeMap::new(),
        }
    }

    /// A trace with the lines of each place that is known; nothing, if none is.
    ///
    /// Errors: a program that reads debug information does not do so.
    pub fn source(&mut self, frames: &[Frame]) -> anyhow::Result<Vec<String>> {
        if let Some(known) = self.known.get(frames) {
            return Ok(known.clone());
        }
        // What fails fails again.
        self.known.insert(frames.to_vec(), Vec::new());
        let scratch = tempfile::tempdir().context("no scratch directory")?;
        let mut places: BTreeMap<Frame, String> = BTreeMap::new();
        let modules: BTreeSet<&Option<String>> = frames.iter().map(|frame| &frame.module).collect();
        for module in modules {
            let Some(file) = self.file(module.as_deref()) else { continue };
            let of_module = frames.iter().filter(|frame| frame.module == *module).cloned();
            places.extend(self.look_up(&file, of_module.collect(), scratch.path())?);
        }
        let line = |frame: &Frame| match places.get(frame) {
            Some(place) => format!("{frame} ({place})"),
            None => frame.to_string(),
        };
        let source = if places.is_empty() { Vec::new() } else { frames.iter().map(line).collect() };
        self.known.insert(frames.to_vec(), source.clone());
        Ok(source)
    }

    fn file(&self, module: Option<&str>) -> Option<PathBuf> {
        if let Some(file) = self.objects.get(&module.map(str::to_owned)) {
            return Some(file.clone());
        }
        let list = fs::read_to_string(self.modules.join("modules.dep")).ok()?;
        let mut files = list.lines().filter_map(|line| line.split(':').next());
        let file = files
            .find(|file| file.ends_with(".ko") && stem(Path::new(file)) == module.unwrap_or_default())?;
        Some(self.modules.join(file))
    }

    fn look_up(
        &self,
        file: &Path,
        frames: Vec<Frame>,
        scratch: &Path,
    ) -> anyhow::Result<BTreeMap<Frame, String>> {
        let run = |program: &str, args: Vec<OsString>| self.run(program, args, file, scratch);
        let object = Object::read(&run("readelf", ["-W", "-h", "-S", "-s"].map(Into::into).to_vec())?);
        if !object.has_lines() {
            return Ok(BTreeMap::new());
        }
        let mut by_section: BTreeMap<&str, Vec<(u64, Frame)>> = BTreeMap::new();
        for frame in frames {
            let Some((section, address)) = object.address(&frame) else { continue };
            by_section.entry(section).or_default().push((address, frame));
        }
        let mut places = BTreeMap::new();
        for (section, wanted) in by_section {
            let mut args: Vec<OsString> = vec!["-i".into(), "-a".into()];
            // Each section of a file that is not linked begins at 0.
            if object.relocatable {
                args.extend(["-j".into(), section.into()]);
            }
            args.extend(wanted.iter().map(|(address, _)| format!("{address:#x}").into()));
            args.push("-e".into());
            let said = run("addr2line", args)?;
            let answers = answers(&said);
            if answers.len() != wanted.len() {
                bail!("addr2line gave {} answers to {} questions", answers.len(), wanted.len());
            }
            let known = wanted.into_iter().zip(answers).filter_map(|((_, frame), lines)| {
                let lines: Vec<&str> = lines.iter().filter_map(|line| shown(line, &self.bases)).collect();
                (!lines.is_empty()).then(|| (frame, lines.join(" ")))
            });
            places.extend(known);
        }
        Ok(places)
    }

    /// What a program of the tool root says of a file, which is its last argument.
    fn run(&self, program: &str, args: Vec<OsString>, file: &Path, scratch: &Path) -> anyhow::Result<String> {
        let mut command = self.tool_root.command(program, &[Bind::read_only(file)]);
        command.env("LC_ALL", "C").args(args).arg(file);
        let log = scratch.join("symbols.log");
        let mut child = Child::spawn(program, command, &log)?;
        match child.wait(Deadline::after(TIMEOUT)) {
            Some(status) if status.success() => {}
            Some(_) => bail!("{}", child.obituary()),
            None => bail!("{program} of {} did not end within {} s", file.display(), TIMEOUT.as_secs()),
        }
        let said = fs::read(&log).with_context(|| format!("{} cannot be read", log.display()))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}

/// `/longpin/source/guest-driver/region.rs:317 (discriminator 2)` -> `guest-driver/region.rs:317`.
fn shown<'t>(line: &'t str, bases: &[String]) -> Option<&'t str> {
    let line = line.split(" (discriminator").next().unwrap_or(line);
    let number = line.rsplit_once(':')?.1;
    if !number.chars().all(|c| c.is_ascii_digit()) || number == "0" {
        return None;
    }
    let rest = bases.iter().find_map(|base| line.strip_prefix(base.as_str())?.strip_prefix('/'));
    Some(rest.unwrap_or(line).trim_start_matches("./"))
}

/// Name of a module, of its file.
fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

/// What `readelf -W -h -S -s` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Object {
    relocatable: bool,
    /// By their numbers.
    sections: BTreeMap<u32, String>,
    /// Functions, by name: section, address, bytes. Two files may have static ones of the same name.
    functions: BTreeMap<String, Vec<(u32, u64, u64)>>,
}

impl Object {
    fn read(text: &str) -> Self {
        let mut object = Self::default();
        for line in text.lines() {
            let line = line.trim_start();
            if let Some(kind) = line.strip_prefix("Type:") {
                object.relocatable = kind.trim_start().starts_with("REL ");
            } else if let Some((number, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']'))
            {
                let name = rest.split_whitespace().next();
                object.sections.extend(number.trim().parse().ok().zip(name.map(str::to_owned)));
            } else if let Some((name, function)) = function(line) {
                object.functions.entry(name.to_owned()).or_default().push(function);
            }
        }
        object
    }

    fn has_lines(&self) -> bool {
        self.sections.values().any(|name| name == ".debug_line")
    }

    /// Section and address; nothing, if it is not certain.
    fn address(&self, frame: &Frame) -> Option<(&str, u64)> {
        let fits =
            |(_, _, bytes): &&(u32, u64, u64)| *bytes <= frame.size && frame.instruction() < frame.size;
        let mut candidates = self.functions.get(&frame.symbol)?.iter().filter(fits);
        let (section, address, _) = candidates.next()?;
        if candidates.next().is_some() {
            return None;
        }
        let section = self.sections.get(section).map_or("", String::as_str);
        Some((section, address.checked_add(frame.instruction())?))
    }
}

/// `89: 0000000000009330   220 FUNC    LOCAL  DEFAULT    5 give_back`.
fn function(line: &str) -> Option<(&str, (u32, u64, u64))> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, address, bytes, "FUNC", _, _, section, name] = words[..] else { return None };
    let bytes = match bytes.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => bytes.parse(),
    };
    Some((name, (section.parse().ok()?, u64::from_str_radix(address, 16).ok()?, bytes.ok()?)))
}

/// Of `addr2line -i -a`: for each address the lines of what is inlined there, innermost first.
fn answers(text: &str) -> Vec<Vec<&str>> {
    let mut answers: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        let is_address =
            line.strip_prefix("0x").is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
        match answers.last_mut() {
            _ if is_address => answers.push(Vec::new()),
            Some(answer) => answer.push(line),
            None => {}
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a module, shortened.
    const MODULE: &str = "\
ELF Header:
  Type:                              REL (Relocatable file)
Section Headers:
  [Nr] Name              Type            Address          Off    Size   ES Flg Lk Inf Al
  [ 5] .text             PROGBITS        0000000000000000 0003b8 00a83a 00  AX  0   0 16
  [ 7] .init.text        PROGBITS        0000000000000000 00abf8 000022 00  AX  0   0 16
  [52] .debug_line       PROGBITS        0000000000000000 0cdf59 008d0e 00      0   0  1
Symbol table '.symtab' contains 4 entries:
   Num:    Value          Size Type    Bind   Vis      Ndx Name
    89: 0000000000009330   220 FUNC    LOCAL  DEFAULT    5 give_back
    90: 0000000000000010   0x20 FUNC    GLOBAL DEFAULT    7 init_module
    91: 0000000000000100    16 FUNC    LOCAL  DEFAULT    5 twice
    92: 0000000000000200    16 FUNC    LOCAL  DEFAULT    5 twice
    93: 0000000000000300    64 FUNC    LOCAL  DEFAULT    5 twice
    94: 0000000000000000     0 NOTYPE  GLOBAL DEFAULT  UND pin_user_pages
";

    fn frame(text: &str, returns: bool) -> Frame {
        Frame::parse(text, returns).unwrap()
    }

    #[test]
    fn a_place_in_a_function_has_a_section_and_an_address() {
        let object = Object::read(MODULE);
        assert!(object.relocatable && object.has_lines());
        for (text, returns, address) in [
            ("give_back+0x84/0xe0 [m]", true, Some((".text", 0x93b3))),
            ("give_back+0x84/0xe0 [m]", false, Some((".text", 0x93b4))),
            ("init_module+0x0/0x20 [m]", true, Some((".init.text", 0x10))),
            // Of another build: the function is longer than it was.
            ("give_back+0x84/0xd0 [m]", true, None),
            ("absent+0x8/0x10 [m]", false, None),
            ("give_back+0xe0/0xe0 [m]", false, None),
            // Two functions have this name.
            ("twice+0x8/0x10 [m]", false, None),
        ] {
            assert_eq!(object.address(&frame(text, returns)), address, "{text}");
        }
    }

    #[test]
    fn a_linked_file_without_lines_is_told_from_one_that_has_some() {
        let object =
            Object::read("  Type:      EXEC (Executable file)\n  [ 1] .text   PROGBITS  ffffffff81000000\n");
        assert!(!object.relocatable && !object.has_lines());
        assert_eq!(Object::read("readelf: Error: not an ELF file"), Object::default());
    }

    #[test]
    fn each_address_has_its_lines_the_innermost_first() {
        let text = "addr2line: DWARF error: x\n0x00000000000093b3\n/a/b.rs:80\n/a/c.rs:317 (discriminator 2)\n\
                    0x0000000000009400\n??:0\n";
        assert_eq!(answers(text), [vec!["/a/b.rs:80", "/a/c.rs:317 (discriminator 2)"], vec!["??:0"]]);
        assert!(answers("").is_empty());
    }

    #[test]
    fn paths_begin_in_the_tree_and_what_is_unknown_is_left_out() {
        let bases = [MODULE_SOURCE.to_owned()];
        let shown = |line| shown(line, &bases);
        assert_eq!(shown("/longpin/source/guest-driver/region.rs:317"), Some("guest-driver/region.rs:317"));
        assert_eq!(shown("./include/linux/mm.h:9 (discriminator 2)"), Some("include/linux/mm.h:9"));
        assert_eq!(shown("/longpin/sources/a.c:1"), Some("/longpin/sources/a.c:1"));
        assert_eq!(["??:0", "??:?", "mirror_glue.c:?", ""].map(shown), [None; 4]);
    }

    #[test]
    fn a_module_has_one_name_however_its_file_is_called() {
        assert_eq!(stem(Path::new("kernel/drivers/block/null-blk.ko")), "null_blk");
    }
}
